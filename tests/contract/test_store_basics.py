def test_put_get(store):
    i = store.put("a/b", b"hello"); assert store.get("a/b") == b"hello"; assert store.head("a/b").etag == i.etag
