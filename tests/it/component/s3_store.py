"""An S3 store for tests, and hands to look into it that do not use kiln's own client.

usage: s3_store.py [S3S-FS]

Without an argument the store is moto, which checks signatures; with one it is
that program. Prints one JSON line with endpoint and keys, then answers JSON
lines of stdin (put, get, list, uploads) until that ends, and the store with it.
"""
import base64, json, socket, subprocess, sys, tempfile, time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ID, SECRET = "KILNTEST", "kiln/test+secret"


def moto():
    import logging
    from moto.server import ThreadedMotoServer
    import requests

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    iam.create_user(UserName="kiln")
    key = iam.create_access_key(UserName="kiln")["AccessKey"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="kiln", PolicyName="s3", PolicyDocument=json.dumps(policy))
    # From here on every request must be signed.
    requests.post(endpoint + "/moto-api/reset-auth", data="0").raise_for_status()
    return endpoint, key["AccessKeyId"], key["SecretAccessKey"], server.stop


def s3s_fs(program):
    folder = tempfile.TemporaryDirectory()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [program, "--host", "127.0.0.1", "--port", str(port), "--access-key", ID, "--secret-key", SECRET, folder.name]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 30
    while True:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None and time.monotonic() < limit, "s3s-fs did not start"
        time.sleep(0.05)

    def stop():
        process.kill()
        process.wait()
        folder.cleanup()

    return f"http://127.0.0.1:{port}", ID, SECRET, stop


def main():
    endpoint, key, secret, stop = s3s_fs(sys.argv[1]) if len(sys.argv) > 1 else moto()
    try:
        style = Config(s3={"addressing_style": "path"})
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret, config=style)
        buckets = set()
        print(json.dumps({"endpoint": endpoint, "id": key, "secret": secret}), flush=True)
        for line in sys.stdin:
            ask = json.loads(line)
            bucket = ask["bucket"]
            if bucket not in buckets:
                s3.create_bucket(Bucket=bucket)
                buckets.add(bucket)
            answer = None
            if ask["do"] == "put":
                s3.put_object(Bucket=bucket, Key=ask["key"], Body=base64.b64decode(ask["body"]))
            elif ask["do"] == "get":
                answer = base64.b64encode(s3.get_object(Bucket=bucket, Key=ask["key"])["Body"].read()).decode()
            elif ask["do"] == "list":
                answer = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
            elif ask["do"] == "uploads":
                try:
                    answer = len(s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
                except ClientError as error:
                    # s3s-fs keeps them and does not tell.
                    assert error.response["Error"]["Code"] == "NotImplemented", error
                    answer = 0
            print(json.dumps(answer), flush=True)
    finally:
        stop()


main()
