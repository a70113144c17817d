"""Releases: what is refused, what is sent where, what is not sent twice, and the settings that are printed."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import close_session

from backend.core.prompt import Style
from backend.engine.hub import download_model
from backend.engine.manifest import manifest_path, sha256_of
from backend.settings import variables
from tests.engine.conftest import eventually
from tests.training.conftest import ROOT, TinyRun, made
from tests.training.finished import NAME, SECRET, judge, make_finished, write_model
from tests.training.hub import TOKEN, UploadHub, serve_upload_hub
from tests.training.s3 import serve_s3
from training import publish
from training.artefacts import write_manifest
from training.config import TuneRun, load_config
from training.destinations import send
from training.errors import ConfigError, TrainingError
from training.paths import comparison_path, evaluation_path, quantized_path

# The LFS upload of huggingface_hub 2.4 hands its file to httpx2 in the old way.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
)

REPO = "someone/doctis-tested"
SERVED = f"{NAME}-Q4_K_M.gguf"
NAMES = {
    SERVED, f"{SERVED}.json", f"{NAME}-Q8_0.gguf", f"{NAME}-Q8_0.gguf.json", "figures.json", "licences.json",
    "README.md", "SHA256SUMS",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a run that passed the gate."""
    return make_finished(tmp_path)


@pytest.fixture
def run(config: Path) -> TuneRun:
    """That run."""
    run = load_config(config)
    assert isinstance(run, TuneRun)
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """An empty hub for this process, which has a token for it; Xet storage is not asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    close_session()
    with serve_upload_hub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        yield served
        close_session()


def published(config: Path, monkeypatch: pytest.MonkeyPatch, *to: str) -> None:
    """`python -m training.publish --config ... --to ...` in this process."""
    options = [option for address in to for option in ("--to", address)]
    monkeypatch.setattr("sys.argv", ["publish", "--config", str(config), *options])
    publish.main()


def settings(printed: str) -> dict[str, str]:
    """The variables among the printed lines, as a shell reads them."""
    return dict(line.split("=", 1) for line in shlex.split(printed, comments=True))


def test_a_model_that_the_gate_refused_goes_nowhere(
    config: Path, run: TuneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reasons of the gate are told, and the destination is not even made."""
    judge(run, ("Q4_K_M: accepted is 0.500, the base's 0.900",))
    with pytest.raises(TrainingError, match=r"refused the model, nothing is published\nQ4_K_M: accepted is 0\.500"):
        published(config, monkeypatch, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verdict", [{}, {"passed": "yes"}, {"passed": None}, {"passed": 1}])
def test_only_true_is_a_pass(run: TuneRun, verdict: dict[str, Any]) -> None:
    """Any other value, or none, refuses."""
    evaluation_path(run).write_text(json.dumps(verdict), encoding="utf-8")
    write_manifest(evaluation_path(run), "evaluate", [comparison_path(run)], run.evaluate, run.seed)
    with pytest.raises(TrainingError, match="the gate refused"):
        publish.make_release(run)


def test_without_an_evaluation_there_is_no_release(run: TuneRun) -> None:
    """The message names the command that judges."""
    evaluation_path(run).unlink()
    with pytest.raises(TrainingError, match=r"evaluation\.json is missing.*python -m training\.evaluate"):
        publish.make_release(run)


def test_an_edited_evaluation_is_refused(run: TuneRun) -> None:
    """A verdict changed by hand differs from its manifest."""
    judge(run, ("bad",))
    report = evaluation_path(run)
    report.write_text(report.read_text(encoding="utf-8").replace("false", "true"), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"evaluation\.json differs from its manifest"):
        publish.make_release(run)


def test_a_gate_with_other_limits_does_not_count(config: Path) -> None:
    """Margins narrowed after the judgement must be judged again."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump(content | {"evaluate": {"replies": 41}}), encoding="utf-8")
    changed = load_config(config)
    with pytest.raises(TrainingError, match="other limits than the configuration's"):
        publish.make_release(changed)


def test_a_damaged_file_is_refused(run: TuneRun) -> None:
    """All that is wrong is told at once: neither manifest fits any more, and the gate saw another file."""
    with quantized_path(run, "Q8_0").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TrainingError) as caught:
        publish.make_release(run)
    lines = str(caught.value).splitlines()
    assert [f"{NAME}-Q8_0.gguf: " in line for line in lines] == [True] * 3
    assert "gguf.json" in lines[0]
    assert "manifest.json" in lines[1]
    assert "not judged" in lines[2]


def test_a_file_made_again_after_the_gate_is_refused(run: TuneRun) -> None:
    """Both manifests fit, but nobody judged it."""
    write_model(run, "Q4_K_M", content=b"GGUF other")
    with pytest.raises(TrainingError, match=rf"{SERVED}: the gate has not judged this file"):
        publish.make_release(run)


def test_a_file_without_its_manifest_is_refused(run: TuneRun) -> None:
    """The server checks it, so it must go along; an unreadable one and a lost model are refused too."""
    manifest_path(quantized_path(run)).unlink()
    manifest_path(quantized_path(run, "Q8_0")).write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"(?s)no manifest .*gguf\.json.*not a manifest"):
        publish.make_release(run)
    quantized_path(run).unlink()
    with pytest.raises(TrainingError, match=r"missing; make it with: python -m training\.quantize"):
        publish.make_release(run)


def test_a_model_for_another_prompt_is_refused(run: TuneRun) -> None:
    """The server would refuse it as well."""
    write_model(run, "Q4_K_M", prompt="phi3-00000000")
    judge(run)
    with pytest.raises(TrainingError, match="made for prompt phi3-00000000, the server renders phi3-"):
        publish.make_release(run)


def test_a_folder_gets_everything_and_the_sums_fit(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sha256sum -c` is content, no half-written file stays, and the printed settings name the copy."""
    out = tmp_path / "out"
    published(config, monkeypatch, str(out))
    assert {path.name for path in out.iterdir()} == NAMES
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == len(NAMES) - 1
    found = settings(capsys.readouterr().out)
    assert found == {"DOCTIS_MODEL_PATH": str(out / SERVED), "DOCTIS_MODEL_SHA256": sha256_of(out / SERVED)}
    assert set(found) <= variables()


def test_no_patient_text_is_published(run: TuneRun) -> None:
    """Consultations stand in the evaluation of the run, and in no file of the release."""
    assert SECRET in evaluation_path(run).read_text(encoding="utf-8")
    release = publish.make_release(run)
    assert [file.name for file in release.files if SECRET.encode() in file.path.read_bytes()] == []
    figures = json.loads((publish.release_path(run) / "figures.json").read_text(encoding="utf-8"))
    assert figures["contestants"]["base"]["accepted"]["share"] == 0.9


def test_no_path_of_this_machine_is_published(run: TuneRun) -> None:
    """The run's folder stands in no file of the release."""
    release = publish.make_release(run)
    assert [file.name for file in release.files if str(run.folder.parent).encode() in file.path.read_bytes()] == []


def test_the_second_time_there_is_nothing_to_do(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The destination is not read again; the settings are printed again."""
    out = tmp_path / "out"
    published(config, monkeypatch, str(out))
    first = capsys.readouterr()
    (out / SERVED).unlink()
    published(config, monkeypatch, str(out))
    second = capsys.readouterr()
    assert "nothing to do" in second.err
    assert second.out == first.out
    assert not (out / SERVED).exists()


def test_only_what_differs_is_sent(run: TuneRun, tmp_path: Path) -> None:
    """What is there is not sent again; a file cut short or of another content is."""
    out, release = tmp_path / "out", publish.make_release(run)
    assert set(send(str(out), release.files, private=True).sent) == NAMES
    assert send(str(out), release.files, private=True).sent == ()
    (out / SERVED).write_bytes((out / SERVED).read_bytes()[:-1])
    (out / "README.md").write_bytes((out / "README.md").read_bytes()[:-1] + b"!")
    assert send(str(out), release.files, private=True).sent == (SERVED, "README.md")


def test_without_a_destination_the_release_stays_and_can_be_served(
    config: Path, run: TuneRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings name the run's own file."""
    published(config, monkeypatch)
    told = capsys.readouterr()
    assert "no destination" in told.err
    assert settings(told.out)["DOCTIS_MODEL_PATH"] == str(quantized_path(run))


@pytest.mark.parametrize(
    "address", ["hf://name-only", "hf://a/b/c", "ftp://host/x", "s3://bucket/pre fix", "s3://key:secret@host/x", ""]
)
def test_a_malformed_destination_is_refused(config: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=r"--to: .*not hf://owner/name"):
        published(config, monkeypatch, address)


def test_the_configuration_takes_no_token(config: Path) -> None:
    """A secret has no place in a file that is committed."""
    content = yaml.safe_load(config.read_text(encoding="utf-8")) | {"publish": {"token": "hf_x"}}
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"publish\.token: Extra inputs are not permitted"):
        load_config(config)


def test_gcs_without_its_driver_says_how_to_install_it(run: TuneRun) -> None:
    """The driver is optional; the pinned fsspec stays."""
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed here")
    release = publish.make_release(run)
    with pytest.raises(TrainingError, match=r"gs:// needs gcsfs; .*pip install gcsfs fsspec==\d+\.\d+"):
        send("gs://bucket/models", release.files, private=True)


def test_the_hub_gets_one_commit(
    config: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models as LFS blobs, the rest as text; a private repository; the settings pin the commit."""
    published(config, monkeypatch, f"hf://{REPO}")
    repository = hub.repositories[REPO]
    assert set(repository.files) == NAMES
    assert {SERVED, f"{NAME}-Q8_0.gguf"} <= repository.lfs
    assert repository.private
    assert repository.commits == [repository.head]
    told = capsys.readouterr().out
    assert settings(told) == {
        "DOCTIS_MODEL_REPO": REPO,
        "DOCTIS_MODEL_FILE": SERVED,
        "DOCTIS_MODEL_REVISION": repository.head,
        "DOCTIS_MODEL_SHA256": hub_sha256(hub, SERVED),
        "DOCTIS_MODEL_PROMPT": Style.PHI3.value,
        "DOCTIS_HUB_URL": hub.url,
    }
    assert set(settings(told)) <= variables()
    assert "HF_TOKEN" in told
    assert TOKEN not in told + (config.parent / "run" / "published.json").read_text(encoding="utf-8")


def hub_sha256(hub: UploadHub, name: str) -> str:
    """The hash of a file that the hub has."""
    return next(oid for oid, blob in hub.blobs.items() if blob == hub.repositories[REPO].files[name])


def test_what_the_hub_has_is_not_sent_again(run: TuneRun, hub: UploadHub) -> None:
    """The same release makes no commit; a changed card makes one of that file alone."""
    release = publish.make_release(run)
    first = send(f"hf://{REPO}", release.files, private=True)
    again = send(f"hf://{REPO}", release.files, private=True)
    assert (again.sent, again.revision) == ((), first.revision)
    assert len(hub.puts) == len(hub.repositories[REPO].lfs)
    hub.repositories[REPO].files["README.md"] = b"edited on the site"
    third = send(f"hf://{REPO}", release.files, private=True)
    assert third.sent == ("README.md",)
    assert len(hub.puts) == len(hub.repositories[REPO].lfs)


def test_an_upload_that_broke_off_goes_on(run: TuneRun, hub: UploadHub) -> None:
    """Blobs that arrived before the commit failed are kept by the hub and not sent again."""
    release = publish.make_release(run)
    hub.refuse_commits = True
    with pytest.raises(TrainingError, match=rf"hf://{REPO}: .*412"):
        send(f"hf://{REPO}", release.files, private=True)
    assert hub.repositories[REPO].files == {}
    arrived = len(hub.puts)
    hub.refuse_commits = False
    assert set(send(f"hf://{REPO}", release.files, private=True).sent) == NAMES
    assert len(hub.puts) == arrived


def test_a_killed_upload_goes_on(config: Path, hub: UploadHub) -> None:
    """SIGKILL between two blobs: there is no commit yet, and the next run sends the missing one only."""
    line = [sys.executable, "-m", "training.publish", "--config", str(config), "--to", f"hf://{REPO}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    hub.most_puts = 1
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: len(hub.puts) == 1 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (hub.repositories[REPO].files, len(hub.puts)) == ({}, 1)
    hub.most_puts = None
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(hub.puts) == len(set(hub.puts)) == 2
    assert set(hub.repositories[REPO].files) == NAMES


@pytest.mark.parametrize("name", [SERVED, "README.md"])
def test_a_file_that_arrives_changed_is_noticed(name: str, run: TuneRun, hub: UploadHub) -> None:
    """What the hub says that it has is compared after the commit, LFS and text alike."""
    hub.spoil = name
    with pytest.raises(TrainingError, match=rf"{name} arrived with another content"):
        send(f"hf://{REPO}", publish.make_release(run).files, private=True)


def test_the_hub_is_not_asked_without_a_token(run: TuneRun, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to log in."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(TrainingError, match=r"no token; run `hf auth login`, or set HF_TOKEN"):
        send(f"hf://{REPO}", publish.make_release(run).files, private=True)
    assert hub.requests == []


def test_a_token_that_may_not_write_is_told(run: TuneRun, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the old nor the new token stands in the message."""
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    with pytest.raises(TrainingError, match="access refused; `hf auth login` or HF_TOKEN") as caught:
        send(f"hf://{REPO}", publish.make_release(run).files, private=True)
    assert "hf_reads" not in str(caught.value)


def test_a_private_release_does_not_go_into_a_public_repository(run: TuneRun, hub: UploadHub) -> None:
    """The Hub does not change an existing repository when it is asked for a private one."""
    release = publish.make_release(run)
    send(f"hf://{REPO}", release.files[-1:], private=False)
    with pytest.raises(TrainingError, match=rf"hf://{REPO} is public; make it private"):
        send(f"hf://{REPO}", release.files, private=True)
    assert set(hub.repositories[REPO].files) == {"SHA256SUMS"}


def test_a_hub_that_cannot_be_reached_is_told(run: TuneRun, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error of ours with the address, whatever the library raises."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    close_session()
    with pytest.raises(TrainingError, match=rf"hf://{REPO}: \w+Error"):
        send(f"hf://{REPO}", publish.make_release(run).files, private=True)


def test_the_server_downloads_what_was_published(
    run: TuneRun, hub: UploadHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own download code, at the commit that was printed, gets the same bytes."""
    done = send(f"hf://{REPO}", publish.make_release(run).files, private=True)
    assert done.revision
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")  # the server names its hub
    stopping = threading.Event()
    got = download_model(
        REPO, SERVED, done.revision, tmp_path / "models", hub.url, TOKEN, lambda _share: None, stopping, ()
    )
    assert sha256_of(got) == sha256_of(quantized_path(run))


@pytest.mark.training
def test_s3_gets_everything_once(config: Path, tmp_path: Path) -> None:
    """A real command against a local S3: everything arrives, the second upload sends nothing, a changed object is."""
    pytest.importorskip("moto", reason="needs the training environment")

    def command(*to: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "run" / "published.json").unlink(missing_ok=True)
        options = [option for address in to for option in ("--to", address)]
        line = [sys.executable, "-m", "training.publish", "--config", str(config), *options]
        environment = {**os.environ, **storage.environment}
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    with serve_s3() as storage:
        refused = command("s3://models/doctis")
        assert refused.returncode == 1
        assert "TrainingError: s3://models/doctis: " in refused.stderr
        client = storage.client()
        client.create_bucket(Bucket="models")
        first = command("s3://models/doctis")
        assert first.returncode == 0, first.stderr
        listed = client.list_objects_v2(Bucket="models")["Contents"]
        assert {entry["Key"] for entry in listed} == {f"doctis/{name}" for name in NAMES}
        sent = client.get_object(Bucket="models", Key=f"doctis/{SERVED}")["Body"].read()
        assert sent == (tmp_path / "run" / SERVED).read_bytes()
        assert f"aws s3 cp s3://models/doctis/{SERVED} models/" in first.stdout
        assert settings(first.stdout)["DOCTIS_MODEL_PATH"] == f"models/{SERVED}"
        assert "0 of 8 files sent" in command("s3://models/doctis").stderr
        client.put_object(Bucket="models", Key=f"doctis/{SERVED}", Body=sent[:-1] + b"!")
        assert "1 of 8 files sent" in command("s3://models/doctis").stderr
        assert client.get_object(Bucket="models", Key=f"doctis/{SERVED}")["Body"].read() == sent


@pytest.fixture(scope="module")
def judged(trained: TinyRun) -> TinyRun:
    """The tiny run from scratch, with a gate that any model passes."""
    content = yaml.safe_load(trained.config.read_text(encoding="utf-8"))
    content["evaluate"] = {
        "accepted_whole": 0, "first_cause_named": 0, "most_urgency_contradictions": 1000, "most_kl": 100,
    }  # fmt: skip
    config = trained.config.with_name("judged.yaml")
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    return made(TinyRun(config), "evaluate")


@pytest.mark.training
def test_a_published_model_is_served(
    judged: TinyRun, hub: UploadHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed settings, pasted into the environment of the real server, give answers by the published model."""
    from benchmarks.server import server, wait_until_ready  # noqa: PLC0415

    command = [sys.executable, "-m", "training.publish", "--config", str(judged.config), "--to", f"hf://{REPO}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(hub.repositories[REPO].lfs) >= {"doctis-ai-tiny-Q4_K_M.gguf"}
    for name, value in settings(done.stdout).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOCTIS_MODEL_DIR", str(tmp_path / "models"))
    with server() as (url, _, started):
        wait_until_ready(url, started)
        answer = diagnose(url)
    assert answer["outcome"] == "answered"
    assert answer["reply"]["text"]
    downloaded = tmp_path / "models" / "doctis-ai-tiny-Q4_K_M.gguf"
    assert sha256_of(downloaded) == sha256_of(quantized_path(judged.run))


def diagnose(url: str) -> dict[str, Any]:
    """The answer of a server to a patient."""
    import urllib.request  # noqa: PLC0415

    body = json.dumps({"symptoms": "J'ai mal à la gorge et de la fièvre depuis deux jours"}).encode()
    request = urllib.request.Request(f"{url}/diagnose", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        content: dict[str, Any] = json.load(answer)
    return content
