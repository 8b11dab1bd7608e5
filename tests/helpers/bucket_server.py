"""A server on loopback that speaks S3: moto's, which compares signatures and permissions once it is told to."""

import http.client
import json
from contextlib import contextmanager

import botocore.session
from moto.server import ThreadedMotoServer


class BucketServer:
    """Buckets on loopback, a user with a key, and nothing for anybody else unless a bucket is public."""

    ENVIRONMENT = {  # noqa: RUF012  (never changed)
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "{folder}/no-config",
        "AWS_SHARED_CREDENTIALS_FILE": "{folder}/no-credentials",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def __enter__(self):
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.address = "{}:{}".format(*self._server.get_host_and_port())
        self.url = f"http://{self.address}"
        iam = self._client("iam", "root", "root")
        iam.create_user(UserName="me")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="me", PolicyName="buckets", PolicyDocument=json.dumps(everything))
        made = iam.create_access_key(UserName="me")["AccessKey"]
        self.key, self.secret = made["AccessKeyId"], made["SecretAccessKey"]
        self.s3 = self._client("s3", self.key, self.secret)
        return self

    def __exit__(self, *_):
        self._tell("/moto-api/reset-auth", "Infinity")
        self._tell("/moto-api/reset", "")
        self._server.stop()

    def fill(self, bucket, prefix, folder, *, public=False):
        """Make a bucket with the files of a folder."""
        self.s3.create_bucket(Bucket=bucket, ACL="public-read" if public else "private")
        acl = {"ACL": "public-read"} if public else {}
        for file in folder.rglob("*"):
            if file.is_file():
                name = f"{prefix}/{file.relative_to(folder).as_posix()}"
                self.s3.put_object(Bucket=bucket, Key=name, Body=file.read_bytes(), **acl)

    def guard(self):
        """From now on, look at keys, signatures and permissions."""
        self._tell("/moto-api/reset-auth", "0")

    @contextmanager
    def open_to_all(self):
        """Let requests without a key through to what is public; guarded, moto fails over all of them."""
        self._tell("/moto-api/reset-auth", "Infinity")
        yield
        self.guard()

    def _client(self, service, key, secret):
        options = {"aws_access_key_id": key, "aws_secret_access_key": secret, "endpoint_url": self.url}
        return botocore.session.Session().create_client(service, "us-east-1", **options)

    def _tell(self, path, text):
        connection = http.client.HTTPConnection(self.address)
        connection.request("POST", path, text)
        assert connection.getresponse().status == 200
        connection.close()
