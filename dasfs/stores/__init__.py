"""Where objects live: one contract (`base`), three kinds of store, and the way from a URL to one of them."""

from dasfs.stores.base import CopyPiece, ObjectInfo, Store, StoreOptions
from dasfs.stores.urls import Scheme, StoreUrl, parse_store_url

__all__ = [
    "CopyPiece",
    "ObjectInfo",
    "Scheme",
    "Store",
    "StoreOptions",
    "StoreUrl",
    "open_store",
    "parse_store_url",
]

_DEFAULT_OPTIONS = StoreOptions()


def open_store(url: str | StoreUrl, options: StoreOptions = _DEFAULT_OPTIONS) -> Store:
    """Return the store at `url`. Nothing is read or written: whether it exists is told by `Store.check`.

    Raises `InvalidInput` for a URL that can't be right, or a profile or endpoint that boto3 can't use.
    """
    place = parse_store_url(url) if isinstance(url, str) else url
    # Each kind brings its own library: boto3 alone takes 0.3 s to import, which `dasfs --help` should not
    # pay.
    match place.scheme:
        case Scheme.S3:
            from dasfs.stores.s3 import S3Store

            return S3Store(place, options)
        case Scheme.DIRECTORY:
            from dasfs.stores.directory import DirectoryStore

            return DirectoryStore(place)
        case Scheme.SQLITE:
            from dasfs.stores.sqlite import SqliteStore

            return SqliteStore(place, options)
