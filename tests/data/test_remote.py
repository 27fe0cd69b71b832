"""Images in object storage are the same as local ones: real clients, servers on 127.0.0.1, and faults in between."""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from archived import zip_of
from conftest import COLOURS, SMALL, Script, draw, settings_of
from remote_servers import Answer, Server, before, serving, serving_folder

from headstart import storage, text
from headstart.config.data import DataSettings
from headstart.data.folders import list_folder, read_file
from headstart.data.prepare import PreparedData
from headstart.datasets import open_data
from headstart.errors import HeadstartError
from headstart.predict.sources import find_images
from headstart.storage import local

PER_CLASS = 4
SECRET = "very-secret-key"
s3 = pytest.importorskip("s3fs")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, and a process that knows nothing."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "WAITS", (0.01, 0.01, 0.01))
    yield
    new_process()


def new_process() -> None:
    storage._systems.clear()
    text._called.clear()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def client(moto: str) -> Any:
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "s3", endpoint_url=moto, aws_access_key_id="id", aws_secret_access_key=SECRET, region_name="us-east-1"
    )


@pytest.fixture(scope="module", autouse=True)
def descriptions_read_once() -> Iterator[None]:
    """botocore reads 20 MB of JSON for each of its sessions."""
    from botocore.loaders import JSONFileLoader  # type: ignore[import-untyped]

    read = functools.cache(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda loader, path: read(path))
        yield


@pytest.fixture
def bucket(moto: str, client: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """s3://bucket/photos holds what the folder `photos` does."""
    with before(moto) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client.create_bucket(Bucket="bucket")
        for path in photos.rglob("*.*"):
            client.put_object(Bucket="bucket", Key=f"photos/{path.relative_to(photos)}", Body=path.read_bytes())
        client.put_object(Bucket="bucket", Key="photos/red/", Body=b"")
        server.requests.clear()
        yield server
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket="bucket", Key=entry["Key"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for colour in sorted(COLOURS):
        for number in range(PER_CLASS):
            draw(tmp_path / "photos" / colour / f"{colour} {number}+ä.jpg", COLOURS[colour], number)
    return tmp_path / "photos"


def settings(root: object, *overrides: str) -> DataSettings:
    return settings_of("data=folder", f"data.root={root}", *overrides).data


def samples(data: PreparedData) -> list[tuple[str, str, str, str]]:
    return [(*sample, data.infos[sample.path].sha256) for sample in data.scan.samples]


def fetched(server: Server) -> int:
    """The number of images asked for."""
    return sum(count for path, count in server.requests.items() if path.endswith(".jpg"))


@pytest.mark.slow
def test_remote_images_are_those_of_the_folder(bucket: Server, photos: Path) -> None:
    remote, here = open_data(settings("s3://bucket/photos")), open_data(settings(photos))
    assert samples(remote) == samples(here)
    assert remote.manifest.fingerprint == here.manifest.fingerprint
    assert fetched(bucket) == 3 * PER_CLASS
    # Listed once, by prefix.
    assert sum("list-type" in path or path == "/bucket" for path in bucket.requests) <= 2


@pytest.mark.slow
def test_a_second_process_fetches_nothing_but_the_list(bucket: Server) -> None:
    before = samples(open_data(settings("s3://bucket/photos")))
    new_process()
    bucket.requests.clear()
    assert samples(open_data(settings("s3://bucket/photos/"))) == before
    # With a slash it is another URL, of the same contents.
    assert fetched(bucket) == 0


@pytest.mark.slow
def test_a_process_that_runs_for_long_sees_new_objects(bucket: Server, moto: str, photos: Path) -> None:
    import boto3

    before = find_images("s3://bucket/photos/red")
    content = (photos / "red" / "red 1+ä.jpg").read_bytes()
    boto3.client("s3", endpoint_url=moto).put_object(Bucket="bucket", Key="photos/red/new.jpg", Body=content)
    after = find_images("s3://bucket/photos/red")
    assert [path.name for path in after if path not in before] == ["new.jpg"]
    assert after[0].parent == before[0].parent


def test_files_without_a_version_are_fetched_by_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_version", lambda info: "")
    memory = storage._system("memory://photos")
    for content in (b"first", b"other"):
        memory.pipe_file("/photos/a.txt", content)
        root = local("memory://photos")
        assert [entry.name for entry in list_folder(root)] == ["a.txt"]
        assert read_file(root / "a.txt") == content


@pytest.mark.slow
@pytest.mark.parametrize("how", [500, 503, "reset", "truncated"])
def test_what_passes_is_tried_again(how: int | str, bucket: Server, photos: Path) -> None:
    bucket.fail_first(2, how)
    assert samples(open_data(settings("s3://bucket/photos"))) == samples(open_data(settings(photos)))
    assert fetched(bucket) > 3 * PER_CLASS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "says"), [(500, "cannot be reached"), ("reset", "cannot be reached"), (403, "may not be read")]
)
def test_what_stays_is_one_sentence_and_the_next_run_goes_on(
    how: int | str, says: str, bucket: Server, tmp_path: Path
) -> None:
    bucket.fail_first(10**6, how, part="red%203")
    with pytest.raises(HeadstartError, match=rf"s3://bucket/photos/red/red 3\+ä\.jpg {says}") as caught:
        open_data(settings("s3://bucket/photos", "data.on_unreadable=skip"))
    assert SECRET not in str(caught.value)
    assert not [*tmp_path.glob("cache/**/*.tmp")]
    new_process()
    bucket.fail_first(0, 500)
    bucket.requests.clear()
    assert len(samples(open_data(settings("s3://bucket/photos")))) == 3 * PER_CLASS
    assert 1 <= fetched(bucket) < 3 * PER_CLASS


@pytest.mark.slow
def test_a_right_that_is_missing_is_said(bucket: Server) -> None:
    bucket.fault = lambda path: 403
    with pytest.raises(HeadstartError, match="s3://bucket/photos may not be read: give s3fs credentials that may"):
        open_data(settings("s3://bucket/photos"))


@pytest.mark.slow
def test_an_object_that_changes_after_it_was_listed_is_said(bucket: Server, moto: str) -> None:
    import boto3

    root = local("s3://bucket/photos")
    client = boto3.client("s3", endpoint_url=moto)
    client.put_object(Bucket="bucket", Key="photos/red/red 1+ä.jpg", Body=b"other")
    with pytest.raises(HeadstartError, match=r"red 1\+ä\.jpg has been changed since it was listed: start again"):
        read_file(root / "red" / "red 1+ä.jpg")
    client.delete_object(Bucket="bucket", Key="photos/red/red 1+ä.jpg")
    with pytest.raises(HeadstartError, match=r"red 1\+ä\.jpg does not exist"):
        read_file(root / "red" / "red 1+ä.jpg")
    assert len(samples(open_data(settings("s3://bucket/photos")))) == 3 * PER_CLASS - 1
    assert root == local("s3://bucket/photos")


@pytest.mark.slow
def test_changed_contents_are_fetched_again(bucket: Server, moto: str, photos: Path) -> None:
    import boto3

    open_data(settings("s3://bucket/photos"))
    new_process()
    draw(photos / "red" / "red 1+ä.jpg", COLOURS["red"], 99)
    content = (photos / "red" / "red 1+ä.jpg").read_bytes()
    boto3.client("s3", endpoint_url=moto).put_object(Bucket="bucket", Key="photos/red/red 1+ä.jpg", Body=content)
    bucket.requests.clear()
    assert samples(open_data(settings("s3://bucket/photos"))) == samples(open_data(settings(photos)))
    assert fetched(bucket) == 1


@pytest.mark.slow
def test_damaged_contents_in_the_cache_are_fetched_again(bucket: Server, photos: Path, tmp_path: Path) -> None:
    open_data(settings("s3://bucket/photos"))
    kept = sorted(tmp_path.glob("cache/remote/contents/*/*"))
    assert len(kept) == 3 * PER_CLASS
    kept[0].write_bytes(kept[0].read_bytes()[:-40])
    kept[1].write_bytes(b"x" + kept[1].read_bytes()[1:])
    new_process()
    bucket.requests.clear()
    assert samples(open_data(settings("s3://bucket/photos"))) == samples(open_data(settings(photos)))
    assert fetched(bucket) == 2


@pytest.mark.slow
def test_the_cache_is_bounded(bucket: Server, photos: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in photos.rglob("*.jpg"))
    bound = size / 2
    remote = open_data(settings("s3://bucket/photos", f"data.cache_gb={bound / 1e9}"))
    kept = sum(path.stat().st_size for path in tmp_path.glob("cache/remote/contents/*/*"))
    assert 0 < kept <= bound
    assert samples(remote) == samples(open_data(settings(photos)))


@pytest.mark.slow
def test_an_archive_and_a_table_are_downloaded_once(photos: Path, tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.mkdir()
    zip_of(photos, web / "images.zip")
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.jpg"))]
    (web / "labels.csv").write_text("\n".join(["path,label", *rows]))
    with serving_folder(web) as server:
        server.fail_first(1, "truncated", part="images.zip")
        table = f"data.csv={server.url}/labels.csv"
        by_table = open_data(settings_of("data=csv", f"data.root={server.url}/images.zip", table).data)
        by_folder = open_data(settings(f"{server.url}/images.zip"))
        assert samples(by_folder) == samples(open_data(settings(photos)))
        assert {row[1:] for row in samples(by_table)} == {row[1:] for row in samples(by_folder)}
        new_process()
        server.requests.clear()
        open_data(settings(f"{server.url}/images.zip"))
        # Asked whether it has changed.
        assert server.requests["/images.zip"] <= 1
        (web / "larger.zip").write_bytes((web / "images.zip").read_bytes())
        with pytest.raises(HeadstartError, match=r"more than data\.cache_gb=1e-06: increase it"):
            open_data(settings(f"{server.url}/larger.zip", "data.cache_gb=1e-6"))


@pytest.mark.slow
def test_a_table_may_have_urls(bucket: Server, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"s3://bucket/photos/{path.relative_to(photos)},{path.parent.name}" for path in photos.rglob("*.jpg")]
    table.write_text("\n".join(["path,label", *rows]))
    by_table = open_data(settings_of("data=csv", "data.root=s3://bucket/photos", f"data.csv={table}").data)
    assert {row[1:] for row in samples(by_table)} == {row[1:] for row in samples(open_data(settings(photos)))}
    table.write_text("path,label\ns3://other/red.jpg,red")
    with pytest.raises(HeadstartError, match=r"line 2: s3://other/red\.jpg is not in data\.root=s3://bucket/photos"):
        open_data(settings_of("data=csv", "data.root=s3://bucket/photos", f"data.csv={table}").data)


@pytest.mark.slow
def test_sources_of_predictions(bucket: Server, photos: Path) -> None:
    images = find_images("s3://bucket/photos")
    assert [text.named(str(path)) for path in images] == [
        f"s3://bucket/photos/{path.relative_to(photos)}" for path in sorted(photos.rglob("*.jpg"))
    ]
    assert len(find_images("s3://bucket/photos/r*/*1*.jpg")) == 1
    assert find_images(["s3://bucket/photos/red/red 1+ä.jpg"])[0].read_bytes() == (
        (photos / "red" / "red 1+ä.jpg").read_bytes()
    )
    with pytest.raises(HeadstartError, match="s3://bucket/nothing does not exist"):
        find_images("s3://bucket/nothing")


def test_a_run_on_remote_images_records_their_url_and_no_secret(
    bucket: Server, trained: Path, script: Script, tmp_path: Path
) -> None:
    (tmp_path / "web").mkdir()
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "web" / "best.ckpt")
    run, small = tmp_path / "run", [option for option in SMALL if not option.startswith("report")]
    done = script("train.py", *small, "data.root=s3://bucket/photos", f"hydra.run.dir={run}")
    assert done.status == 0, done.err
    assert "s3://bucket/photos: 3 classes" in done.out
    # Another process of another user, with a cache of its own.
    new_process()
    shutil.rmtree(tmp_path / "cache")
    again = script("train.py", f"ckpt_path={run}", "report=none", f"hydra.run.dir={tmp_path / 'again'}")
    assert again.status == 0, again.err
    with serving_folder(tmp_path / "web") as server:
        new_process()
        images = "source=s3://bucket/photos/red"
        predicted = script("predict.py", f"ckpt_path={server.url}/best.ckpt", images, "output=out", "sort=copy")
    assert predicted.status == 0, predicted.err
    assert "s3://bucket/photos/red/red 0+ä.jpg" in Path("out/predictions.csv").read_text()
    assert len([*Path("out").glob("*/*.jpg")]) == PER_CLASS
    for path in (path for folder in (run, tmp_path / "again", Path("out")) for path in folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        assert SECRET.encode() not in content, path
        assert b"/cache/remote" not in content, path


@pytest.mark.slow
def test_googles_storage(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs")
    files = {f"photos/{path.relative_to(photos)}": path.read_bytes() for path in photos.rglob("*.jpg")}

    def described(name: str) -> dict[str, str]:
        return {"name": name, "bucket": "bucket", "size": str(len(files[name])), "generation": "1", "etag": "CJ="}

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        query, place = parse_qs(urlsplit(path).query), urlsplit(path).path
        name = unquote(place.partition("/o/")[2])
        if name:
            if name not in files:
                return 404, {}, b"{}"
            is_content = query.get("alt") == ["media"] or "/download/" in place
            return 200, {}, files[name] if is_content else json.dumps(described(name)).encode()
        items = [described(key) for key in sorted(files) if key.startswith(query.get("prefix", [""])[0])]
        return 200, {"Content-Type": "application/json"}, json.dumps({"items": items}).encode()

    with serving(answer) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        assert samples(open_data(settings("gs://bucket/photos"))) == samples(open_data(settings(photos)))


@pytest.mark.slow
def test_hugging_faces_datasets(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    files = {f"photos/{path.relative_to(photos)}": path.read_bytes() for path in photos.rglob("*.jpg")}

    def described(name: str) -> dict[str, Any]:
        if name not in files:
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": hashlib.sha1(files[name]).hexdigest(), "size": len(files[name])}

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        place = unquote(urlsplit(path).path)
        if method == "POST":
            value: Any = [described("photos")]
        elif "/resolve/" in place:
            content = files.get(place.partition("/main/")[2], b"")
            return (200 if content else 404), {"ETag": "1", "X-Repo-Commit": "0" * 40}, content
        elif "/tree/" in place:
            top = place.partition("/tree/main")[2].strip("/")
            below = sorted({*files, "photos", *(f"photos/{name}" for name in COLOURS)})
            is_deep = "recursive=true" in path.lower()
            value = [described(n) for n in below if n.startswith(top) and (is_deep or os.path.dirname(n) == top)]
        else:
            value = {"id": "team/animals", "sha": "0" * 40, "siblings": []}
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    with serving(answer) as server:
        # As HF_ENDPOINT sets them when the package is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        remote = open_data(settings("hf://datasets/team/animals/photos"))
        assert samples(remote) == samples(open_data(settings(photos)))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://user:password@127.0.0.1/images.zip", "https://127.0.0.1/images.zip has a password or a signature"),
        ("https://127.0.0.1/a.zip?X-Amz-Signature=12ab", "https://127.0.0.1/a.zip has a password or a signature"),
        ("https://a.blob.core.windows.net/c/a.zip?sv=2&sig=12ab", "has a password or a signature"),
        ("nothing://bucket/photos", "nothing://bucket/photos cannot be read: Protocol not known: nothing"),
        ("az://bucket/photos", "az://bucket/photos cannot be read: Install adlfs"),
        ("file:///nothing/photos", "data.root=file:/nothing/photos does not exist"),
        ("http://127.0.0.1:9/images.zip", "http://127.0.0.1:9/images.zip cannot be reached .*start again later"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(url: str, says: str) -> None:
    with pytest.raises(HeadstartError, match=says) as caught:
        open_data(settings(url))
    assert not re.search("password@|12ab", str(caught.value))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec  # type: ignore[import-untyped]

    def filesystem(protocol: str, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    with pytest.raises(HeadstartError, match=r"s3://b/c needs s3fs, which is not installed: python -m pip install"):
        local("s3://b/c")


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert local(tmp_path) == tmp_path
    assert local("~/photos") == Path(os.path.expanduser("~/photos"))
    assert local(r"C:\photos") == Path(r"C:\photos")
    # As pathlib shortens it.
    assert text.is_url(Path("s3://bucket/photos"))
