"""An S3 server on loopback, for tests of storage that is not a folder."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "sstkd-test-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def server(bucket: str = "bucket") -> Iterator[str]:
    """The URI of a folder in a new bucket; the credentials are in the environment meanwhile."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, at import
        from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        _, port = running.get_host_and_port()
        where = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "region": "us-east-1"}
        S3FileSystem(**where, allow_bucket_creation=True).create_dir(bucket)
        yield f"s3://{bucket}/results?endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1"
    finally:
        running.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
