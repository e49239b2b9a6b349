#!/usr/bin/env python3
"""Upload what comes on standard input as one object, by one multipart upload: what a careful script does with boto3.

tar -cf - DIRECTORY | python bench/upload_stream.py BUCKET KEY
"""

import sys

import boto3


def main() -> int:
    bucket, key = sys.argv[1:]
    boto3.client("s3").upload_fileobj(sys.stdin.buffer, bucket, key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
