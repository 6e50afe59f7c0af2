"""Reads, lists and writes, on disk and on a real S3 server alike."""

from __future__ import annotations

import datetime
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agescale.store import client, listing, objects, parquet, paths
from agescale.store.errors import Damaged, StoreError

NAMES = ["a b.jpg", "faces/Zoë+Åsa.jpg", "faces/日本.png", "faces/no#1 100%.jpg", "faces/%20.jpg", "faces/a=b&c;d.jpg"]
TABLE = pa.table({"uri": ["a", "b", "c"], "age": [1.0, 2.0, None], "image": [b"1", b"2", b"3"]})


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder of the test's own, with a name that wants care."""
    if request.param == "disk":
        return str(tmp_path / "földer #1 100%")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/földer #1 100%"


@pytest.fixture
def fresh_clients(s3: str) -> Iterator[None]:
    """Lets a test change the credentials of this process."""
    client._filesystem.cache_clear()
    yield
    client._filesystem.cache_clear()


def test_bytes_come_back_from_names_with_spaces_signs_and_letters_of_all_languages(folder: str) -> None:
    for name in NAMES:
        objects.write_bytes(paths.join(folder, name), name.encode())
    listed = listing.list_files(folder)
    assert [item.relative for item in listed] == sorted(NAMES)
    assert [item.uri for item in listed] == [paths.join(folder, name) for name in sorted(NAMES)]
    assert [objects.read_bytes(item.uri).decode() for item in listed] == sorted(NAMES)
    assert [item.size_bytes for item in listed] == [len(name.encode()) for name in sorted(NAMES)]
    assert objects.list_names(folder) == ["a b.jpg"]
    assert objects.list_names(folder, prefix="b") == objects.list_names(folder, suffix=".png") == []


def test_a_rewritten_file_has_another_version_and_the_others_keep_theirs(folder: str) -> None:
    for name in ("a.jpg", "b.jpg"):
        objects.write_bytes(paths.join(folder, name), b"one")
    before = {item.relative: item.version for item in listing.list_files(folder)}
    objects.write_bytes(paths.join(folder, "b.jpg"), b"two")
    after = {item.relative: item.version for item in listing.list_files(folder)}
    assert after["a.jpg"] == before["a.jpg"]
    assert after["b.jpg"] != before["b.jpg"]
    assert objects.read_bytes(paths.join(folder, "b.jpg")) == b"two"


def test_what_is_not_there_is_missing_in_one_line(folder: str) -> None:
    objects.write_bytes(paths.join(folder, "a.jpg"), b"x")
    for action in (objects.read_bytes, parquet.read_table, parquet.read_schema, parquet.num_rows, listing.list_files):
        with pytest.raises(StoreError, match=r"^\S.*nothing here.*$") as caught:
            action(paths.join(folder, "nothing here"))
        assert caught.value.status == "missing"
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        listing.list_files(paths.join(folder, "a.jpg"))
    assert caught.value.status == "missing"
    assert objects.list_names(paths.join(folder, "nothing here")) == []
    assert not objects.exists(paths.join(folder, "nothing here"))
    assert objects.exists(paths.join(folder, "a.jpg"))


def test_deleting_twice_is_no_error_and_the_check_for_writing_leaves_nothing(folder: str) -> None:
    objects.check_writable(folder)
    objects.write_bytes(paths.join(folder, "a.jpg"), b"x")
    assert objects.list_names(folder) == ["a.jpg"]
    objects.delete(paths.join(folder, "a.jpg"))
    objects.delete(paths.join(folder, "a.jpg"))
    assert objects.list_names(folder) == []


def test_tables_come_back_with_the_columns_and_rows_that_were_asked_for(folder: str) -> None:
    uri = paths.join(folder, "part-1.parquet")
    parquet.write_table(uri, TABLE.replace_schema_metadata({"agescale.x": "1"}), row_group_size=2)
    assert parquet.read_table(uri).equals(TABLE)
    assert parquet.read_table(uri, ["age"]).column_names == ["age"]
    assert parquet.read_table(uri, ["uri"], pc.field("age") > 1)["uri"].to_pylist() == ["b"]
    assert parquet.read_row_groups(uri, [1], ["image"])["image"].to_pylist() == [b"3"]
    assert parquet.read_schema(uri).metadata[b"agescale.x"] == b"1"
    assert parquet.num_rows(uri) == 3


def test_a_table_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(s3: str) -> None:
    uri = f"{s3}/replaced.parquet"
    parquet.write_table(uri, TABLE)
    file = parquet.RemoteFile(uri)
    parquet.write_table(uri, TABLE.slice(1))
    with pytest.raises(StoreError, match=r"replaced\.parquet: "):
        file.read(4)


SLOWLY = {
    "closes": """
def close_slowly(file, close=s3fs.S3File.close):
    time.sleep(0.5)
    close(file)

s3fs.S3File.close = close_slowly
""",
    "has just let go of": """
s3fs.S3File.__del__ = lambda file: time.sleep(0.5)
""",
}


@pytest.mark.parametrize("what", SLOWLY)
def test_a_program_that_ends_while_pyarrow_lets_go_of_what_it_has_read_ends_well(s3: str, what: str) -> None:
    parquet.write_table(f"{s3}/read-to-the-end.parquet", TABLE)
    program = f"""
import sys, time, s3fs
from agescale.store import parquet
{SLOWLY[what]}  # as on a busy machine, in a thread of pyarrow's
uri = sys.argv[1]
print(parquet.open_dataset([uri], parquet.read_schema(uri)).to_table().num_rows)
"""
    command = [sys.executable, "-c", program, f"{s3}/read-to-the-end.parquet"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3\n", "")


def test_a_file_is_held_as_long_as_bytes_of_it_are(s3: str) -> None:
    parquet.write_table(f"{s3}/held.parquet", TABLE)
    held = len(parquet._held_files)
    with parquet.opened(f"{s3}/held.parquet") as file:
        magic = file.read_buffer(4)
    del file
    assert (bytes(magic), len(parquet._held_files)) == (b"PAR1", held + 1)
    del magic
    assert len(parquet._held_files) == held


def test_a_damaged_table_is_named(folder: str) -> None:
    objects.write_bytes(paths.join(folder, "part-1.parquet"), b"nothing of the kind")
    uri = paths.join(folder, "part-1.parquet")
    with pytest.raises(Damaged) as caught:
        parquet.read_table(uri)
    assert (caught.value.uri, str(caught.value).startswith(f"{uri}: damaged, ")) == (uri, True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_objects_on_s3_are_written_only_over_what_the_writer_knows(s3: str) -> None:
    uri = f"{s3}/conditional"
    assert objects.etag(uri) is None
    first = objects.write_if(uri, b"1", None)
    assert first == objects.etag(uri)
    assert objects.write_if(uri, b"2", None) is None
    second = objects.write_if(uri, b"2", first)
    assert second not in (first, None)
    assert objects.write_if(uri, b"3", first) is None
    assert objects.read_bytes(uri) == b"2"
    objects.delete(uri)
    assert objects.write_if(uri, b"3", second) is None


def test_what_is_read_is_what_was_listed_or_told_to_be_another(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    uri = paths.join(folder, "a.jpg")
    objects.write_bytes(uri, b"one")
    (listed,) = listing.list_files(folder)
    assert objects.read_bytes(uri, listed.version, listed.size_bytes) == b"one"
    assert objects.read_bytes(uri, "of an inventory", 3) == b"one"
    with pytest.raises(
        StoreError, match=r"changed since it was listed|delivered 3 bytes, its listing says 4"
    ) as caught:
        objects.read_bytes(uri, "of an inventory", 4)
    assert caught.value.status == ("unreachable" if paths.is_remote(uri) else "changed")
    objects.write_bytes(uri, b"two")
    with pytest.raises(StoreError, match=r"a\.jpg: changed since it was listed$") as caught:
        objects.read_bytes(uri, listed.version, listed.size_bytes)
    assert (caught.value.status, caught.value.is_about_one_file) == ("changed", True)
    assert objects.read_bytes(uri) == b"two"


def test_a_store_whose_listings_tell_other_etags_than_its_objects_is_read_all_the_same(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, other = f"{s3}/etags/a.jpg", "0" * 32
    objects.write_bytes(uri, b"one")
    told = {"Contents": [{"Key": "etags/a.jpg", "ETag": f'"{other}"', "Size": 3}]}
    monkeypatch.setattr(objects, "list_objects", lambda *_, **__: told)
    assert objects.read_bytes(uri, other, 3) == b"one"


def test_a_file_that_is_written_while_it_is_read_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    (listed,) = listing.list_files(str(tmp_path))
    fstat = os.fstat

    def write_behind(number: int) -> os.stat_result:
        status = fstat(number)
        path.write_bytes(b"uno")  # of the same size, right after the first look
        monkeypatch.setattr(os, "fstat", fstat)
        return status

    monkeypatch.setattr(os, "fstat", write_behind)
    with pytest.raises(StoreError, match="changed since it was listed"):
        objects.read_bytes(str(path), listed.version, 3)


def test_a_file_is_written_over_only_where_the_one_that_was_read_still_stands(folder: str) -> None:
    uri = paths.join(folder, "unit")
    assert objects.version(uri) is None
    objects.write_bytes(uri, b"one")
    read = objects.version(uri)
    assert read
    assert objects.write_over(uri, b"two", read)
    assert not objects.write_over(uri, b"TWO", read)
    assert objects.read_bytes(uri) == b"two"
    assert objects.list_names(folder) == ["unit"]


def test_of_many_that_write_over_the_same_file_one_does(folder: str) -> None:
    uri = paths.join(folder, "unit")
    objects.write_bytes(uri, b"one")
    read = str(objects.version(uri))
    begin = threading.Barrier(8)

    def write(number: int) -> bool:
        begin.wait()
        return objects.write_over(uri, f"by {number}".encode(), read)

    with ThreadPoolExecutor(8) as pool:
        have_written = list(pool.map(write, range(8)))
    assert sum(have_written) == 1
    assert objects.read_bytes(uri) == f"by {have_written.index(True)}".encode()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "a.parquet")
    objects.write_bytes(uri, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="No space left"):
        objects.write_bytes(uri, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.parquet", b"old")]


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    objects.write_bytes(str(tmp_path / "a"), b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_uris_are_told_apart_from_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("faces/../x") == paths.absolute(f"file://{tmp_path}/x/") == str(tmp_path / "x")
    assert paths.absolute("s3://bucket/faces/") == "s3://bucket/faces"
    with pytest.raises(ValueError, match=r"gs://b/x: a URI is a path, file:// or s3://"):
        paths.absolute("gs://b/x")
    with pytest.raises(ValueError, match="bucket's name is missing"):
        paths.absolute("s3://")


def test_store_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(StoreError("forbidden", "s3://b/x: access refused", stops_the_job=True)))
    assert (error.status, str(error), error.stops_the_job) == ("forbidden", "s3://b/x: access refused", True)


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")], ids=["secret", "key"]
)
def test_wrong_credentials_stop_the_job_and_say_what_to_check(
    s3: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch, fresh_clients: None
) -> None:
    monkeypatch.setenv(name, value)
    for action in (listing.list_files, objects.list_names, objects.read_bytes, parquet.read_table, objects.exists):
        with pytest.raises(StoreError, match=r"^s3://faces/x: access refused \(.*\); check the credentials") as caught:
            action(f"{s3}/x")
        assert (caught.value.status, caught.value.stops_the_job) == ("forbidden", True)
        assert "wrong" not in str(caught.value)
    with pytest.raises(StoreError, match="access refused"):
        objects.check_writable(f"{s3}/x")


def test_no_credentials_at_all_say_which_to_set(s3: str, monkeypatch: pytest.MonkeyPatch, fresh_clients: None) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID") as caught:
        listing.list_files(f"{s3}/x")
    assert (caught.value.status, caught.value.stops_the_job) == ("forbidden", True)


def test_a_bucket_that_does_not_exist_is_missing_and_named(s3: str) -> None:
    for action in (listing.list_files, objects.read_bytes, parquet.read_table):
        with pytest.raises(StoreError, match=r"^s3://no-such-bucket/x.*: no bucket 'no-such-bucket'$") as caught:
            action("s3://no-such-bucket/x")
        assert caught.value.status == "missing"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that S3 has not answered yet, with credentials for a store that the test brings along."""
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    client._filesystem.cache_clear()
    yield
    client._filesystem.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "not a URL such as http://"),
        ("AWS_ENDPOINT_URL_S3", "http://minio:9000\n", "not a URL such as http://"),
        ("AWS_ENDPOINT_URL", "http://", "not a URL such as http://"),
        ("AWS_ACCESS_KEY_ID", "key\n", "a line end or blanks"),
        ("AWS_SECRET_ACCESS_KEY", " secret", "a line end or blanks"),
        ("AWS_SESSION_TOKEN", "token\r\n", "a line end or blanks"),
        ("AWS_CA_BUNDLE", "/nowhere.pem", "no file of certificates .*No such file"),
        ("AWS_CA_BUNDLE", __file__, "no file of certificates "),
    ],
)
def test_settings_that_cannot_work_are_named_before_anything_is_asked(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, stranger: None
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 10**9)
    for action in (listing.list_files, objects.read_bytes, parquet.read_table, objects.check_writable):
        with pytest.raises(StoreError, match=rf"^{name}[:=].*{said}.*$") as caught:
            action("s3://faces/x")
        assert caught.value.stops_the_job
        assert "secret" not in str(caught.value)


def self_signed_certificate(folder: Path) -> Path:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    signed = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(
        key, hashes.SHA256()
    )
    (folder / "server.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return folder / "server.pem"


@contextmanager
def web_server(certificate: Path | None) -> Iterator[str]:
    """A server that has no bucket, with TLS where it has a certificate."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


def test_a_certificate_that_nobody_vouches_for_is_not_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: None
) -> None:
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 10**9)
    certificate = self_signed_certificate(tmp_path)
    with web_server(certificate) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{address}")
        with pytest.raises(StoreError, match=rf"{address}: .* not trusted \(self-signed.*AWS_CA_BUNDLE"):
            objects.read_bytes("s3://faces/a-name-that-is-long-enough-to-fill-a-line/" + "x" * 200)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        client._filesystem.cache_clear()
        with pytest.raises(StoreError, match="not found"):
            objects.read_bytes("s3://faces/x")
    with web_server(None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{address}")
        client._filesystem.cache_clear()
        with pytest.raises(StoreError, match=r"does not answer .*WRONG_VERSION_NUMBER"):
            objects.read_bytes("s3://faces/x")


def test_credentials_that_no_header_takes_are_not_sent_twice(monkeypatch: pytest.MonkeyPatch, stranger: None) -> None:
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 10**9)
    with web_server(None) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ke\x01y")
        with pytest.raises(StoreError, match=r"the credentials hold a line end or other characters") as caught:
            objects.read_bytes("s3://faces/x")
    assert caught.value.stops_the_job


@pytest.mark.parametrize("is_silent", [False, True], ids=["down", "silent"])
@pytest.mark.parametrize("program", ["jobs/score.py", "ray/_private/workers/default_worker.py"])
def test_a_job_says_for_whom_it_waits_and_at_last_who_did_not_answer(
    is_silent: bool, program: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stranger: None
) -> None:
    monkeypatch.setattr(client, "TELL_AFTER_S", 0.2)
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.4)
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2 if is_silent else 4)
    monkeypatch.setattr("sys.argv", [program])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if is_silent:
            server.listen()
        endpoint = f"AWS_ENDPOINT_URL=http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv(*endpoint.split("=", 1))
        assert objects.exists(__file__)  # which says nothing of S3
        for name in ("x", "y"):
            with pytest.raises(StoreError, match=rf"^s3://faces/{name}: {endpoint} does not answer \(.+\)$") as caught:
                objects.read_bytes(f"s3://faces/{name}")
            assert caught.value.status == "unreachable"
    told = "".join(f"s3://faces/{name}: {endpoint} has not answered for 0.2 s; still trying\n" for name in "xy")
    assert capfd.readouterr().err == (told if program == "jobs/score.py" else "")


class Flaky:
    """A store whose first answers are errors."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def read(self, *_: object) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return b"picture"


RESET, REFUSED = ConnectionResetError(104, "reset by peer"), PermissionError("Access Denied")
DOWN = EndpointConnectionError(endpoint_url="http://127.0.0.1:9/faces", error="refused\nfor good")


@pytest.mark.parametrize(
    ("errors", "status", "num_left"),
    [
        ([RESET, DOWN], None, 0),
        ([DOWN] * 20, "unreachable", 20 - client.NUM_ATTEMPTS),
        ([REFUSED] * 2, "forbidden", 1),
    ],
)
def test_a_read_is_tried_again_where_that_may_help(
    errors: list[BaseException], status: str | None, num_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Flaky(*errors)
    monkeypatch.setattr(objects, "_read_object", store.read)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    if status is None:
        assert objects.read_bytes("s3://faces/x.jpg") == b"picture"
    else:
        with pytest.raises(StoreError, match=r"^s3://faces/x\.jpg: .*$") as caught:
            objects.read_bytes("s3://faces/x.jpg")
        assert caught.value.status == status
    assert len(store.errors) == num_left


def test_a_public_bucket_is_read_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Public(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403 if "Authorization" in self.headers else 200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"open")

        def log_message(self, *more: object) -> None:
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with ThreadingHTTPServer(("127.0.0.1", 0), Public) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        client._filesystem.cache_clear()
        with pytest.raises(StoreError, match=r"no credentials; .* or set AWS_NO_SIGN_REQUEST=yes for a public bucket"):
            objects.read_bytes("s3://public/a")
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
        client._filesystem.cache_clear()
        assert objects.read_bytes("s3://public/a") == b"open"
        server.shutdown()
    client._filesystem.cache_clear()
