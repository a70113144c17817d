"""QLoRA: every linear layer trained and nothing else, resumable to the bit, with the losses of the answers alone."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("bitsandbytes", reason="needs the training environment")

import torch
from bitsandbytes.nn import Linear4bit
from transformers import GPT2Config, GPT2LMHeadModel

from backend.core.prompt import Style
from tests.engine.stand_in_hub import COMMIT, serve_hub
from tests.training.bases import chat_rows, make_llama_base, make_phi3_base, make_qwen_base
from tests.training.conftest import TinyRun
from tests.training.tunes import ENVIRONMENT, QUIET, ROOT, Tune, make_tune, write_rows
from training.adapter import add_adapter, check_targets, load_quantized
from training.artefacts import manifest_of, read_input, sha256, write_manifest
from training.checkpoints import last_complete, mark_complete, seconds_spent
from training.config import QloraConfig
from training.curve import write_curve
from training.encoding import open_encoder
from training.errors import StaleArtefactError, TrainingError
from training.loss import held_out_loss
from training.paths import adapter_path, checkpoints_path, held_out_path, model_path, tokenizer_path, train_path
from training.precision import Precision, precision_of
from training.pretrain import build_model, collate, save
from training.qlora import plan_rows
from training.tokenizer import Tokenizer

pytestmark = [pytest.mark.training, *QUIET]

CPU = Precision(torch.device("cpu"), torch.float32, "test")
GUIDE_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAKERS = {"phi3": make_phi3_base, "llama": make_llama_base, "qwen2": make_qwen_base}
DROPOUT = {"dropout": 0.05}
# Kills itself as `kill -9` would: half way through writing the optimizer of the second checkpoint, or in step 4.
IN_A_CHECKPOINT = """
import os, signal, torch
from training import qlora
write, written = torch.save, []
def save(state, path, *rest, **more):
    write(state, path, *rest, **more)
    if str(path).endswith("optimizer.pt"):
        written.append(path)
        if len(written) == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
qlora.main()
"""
IN_A_STEP = """
import os, signal
from training import qlora
step = qlora.AnswerTrainer.training_step
def die(self, *rest, **more):
    if self.state.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *rest, **more)
qlora.AnswerTrainer.training_step = die
qlora.main()
"""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base of each architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def whole(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Tune:
    """A fine-tune that nothing interrupted."""
    tune = make_tune(tmp_path_factory.mktemp("whole"), bases["phi3"], Style.PHI3, qlora=DROPOUT)
    done = tune.stage("qlora")
    assert done.returncode == 0, done.stderr
    return tune


def weights_of(tune: Tune) -> str:
    """The hash of the trained adapter."""
    return sha256(adapter_path(tune.run) / "adapter_model.safetensors")


def manifest(tune: Tune) -> dict[str, Any]:
    """What the stage recorded."""
    content: dict[str, Any] = json.loads(manifest_of(adapter_path(tune.run)).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(("name", "each", "blocks"), [("phi3", 4, 2), ("llama", 7, 2), ("qwen2", 7, 1)])
def test_every_linear_layer_of_every_block_is_trained(
    name: str, each: int, blocks: int, bases: dict[str, Path]
) -> None:
    """All of them in nf4, with a float32 adapter; the output layer and the embeddings are left alone."""
    model = add_adapter(load_quantized(bases[name], CPU), QloraConfig())
    trained = check_targets(model)
    assert (trained.modules, trained.blocks, len(trained.names)) == (each * blocks, blocks, each)
    assert sum(isinstance(part, Linear4bit) for part in model.modules()) == each * blocks
    quantized = next(part for part in model.modules() if isinstance(part, Linear4bit))
    assert (quantized.weight.quant_state.quant_type, quantized.weight.quant_state.nested) == ("nf4", True)
    assert f"{each * blocks} linear layers" in trained.told()
    trainable = [n for n, weight in model.named_parameters() if weight.requires_grad]
    assert len(trainable) == 2 * each * blocks
    assert not any("lm_head" in n or "embed" in n for n in trainable)


def test_the_targets_of_the_guide_are_refused_for_phi3(bases: dict[str, Path]) -> None:
    """Two of its seven names exist in Phi-3; PEFT takes that without a word, the check does not."""
    model = add_adapter(load_quantized(bases["phi3"], CPU), QloraConfig(), targets=GUIDE_TARGETS)
    with pytest.raises(TrainingError, match=r"4 of the 8 linear layers .* without one: 0\.qkv_proj, 0\.gate_up_proj"):
        check_targets(model)
    llama = add_adapter(load_quantized(bases["llama"], CPU), QloraConfig(), targets=GUIDE_TARGETS)
    assert check_targets(llama).modules == 14


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Its linear layers cannot be counted against anything."""
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    model = add_adapter(load_quantized(tmp_path, CPU), QloraConfig(), targets=("c_fc",))
    with pytest.raises(TrainingError, match="linear layers of 'gpt2' models are not known"):
        check_targets(model)


def test_an_evaluation_does_not_change_the_gradients(bases: dict[str, Path]) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks weights when it evaluates, and then loses their gradients."""
    config = make_config(bases["phi3"])
    encoder = open_encoder(config, bases["phi3"])
    examples = [encoder.example(row) for row in chat_rows(4)]
    torch.manual_seed(1)
    model = add_adapter(load_quantized(bases["phi3"], CPU), QloraConfig(dropout=0.0, gradient_checkpointing=False))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.train()
        ids_BT, mask_BT, labels_BT = collate(examples, encoder.pad)
        model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    before = gradients()
    held_out_loss(model, examples, encoder.pad, 2)
    assert all(torch.equal(one, two) for one, two in zip(before, gradients(), strict=True))


def make_config(base: Path) -> Any:  # noqa: ANN401 - the section of a configuration
    """The base section for a Phi-3 folder."""
    return make_tune(base.parent / "section", base, Style.PHI3).run.base


def test_held_out_loss_is_per_answer_token(bases: dict[str, Path]) -> None:
    """The same whatever the batches, and the mean over tokens that the model itself computes."""
    encoder = open_encoder(make_config(bases["phi3"]), bases["phi3"])
    examples = [encoder.example(row) for row in chat_rows(5)]
    model = load_quantized(bases["phi3"], CPU)
    whole = held_out_loss(model, examples, encoder.pad, 5)
    assert held_out_loss(model, examples, encoder.pad, 2) == pytest.approx(whole, abs=1e-5)
    ids_BT, mask_BT, labels_BT = collate(examples, encoder.pad)
    with torch.no_grad():
        expected = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    assert whole == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("capability", "bf16", "fp16"),
    [((7, 5), False, True), ((7, 0), False, True), ((8, 0), True, False), ((9, 0), True, False), (None, False, False)],
    ids=["T4", "V100", "A100", "H100", "CPU"],
)
def test_precision_follows_the_device(capability: tuple[int, int] | None, bf16: bool, fp16: bool) -> None:
    """A T4 gets float16, although PyTorch says that it could do bfloat16; only the choice is tested here."""
    precision = precision_of(capability, torch.device("cuda" if capability else "cpu"))
    assert (precision.bf16, precision.fp16) == (bf16, fp16)


def test_float16_training_has_float32_adapters(bases: dict[str, Path]) -> None:
    """What a T4 would train: the loss scaler cannot unscale float16 or bfloat16 gradients."""
    half = Precision(torch.device("cpu"), torch.float16, "as on a T4")
    model = add_adapter(load_quantized(bases["phi3"], half), QloraConfig())
    check_targets(model)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


@settings(deadline=None)
@given(st.lists(st.integers(4, 500), min_size=1, max_size=80), st.integers(1, 16), st.integers(1, 12))
def test_every_row_is_seen_each_epoch(lengths: list[int], group: int, steps: int) -> None:
    """In whole groups, the longest row first; the same plan each time."""
    planned = plan_rows(lengths, group, steps, seed=3)
    assert len(planned) == steps * group
    assert planned == plan_rows(lengths, group, steps, seed=3)
    assert max(lengths) in [lengths[row] for row in planned[:group]]
    epoch = math.ceil(len(lengths) / group) * group
    if steps * group >= epoch:
        assert set(planned[:epoch]) == set(range(len(lengths)))


def test_rows_of_like_length_share_a_step() -> None:
    """Little is lost to padding, and another seed or epoch has another order."""
    lengths = [20 + (row * 37) % 400 for row in range(160)]
    planned = plan_rows(lengths, 16, 20, seed=3)
    groups = [[lengths[row] for row in planned[first : first + 16]] for first in range(0, 320, 16)]
    assert sum(map(sum, groups)) / sum(16 * max(group) for group in groups) > 0.9
    assert planned[:160] != planned[160:]
    assert planned != plan_rows(lengths, 16, 20, seed=4)


def test_a_fine_tune_learns_and_says_how(whole: Tune) -> None:
    """The held-out loss falls; what was trained, with what and for how long is in the manifest."""
    found = manifest(whole)
    assert found["held_out_loss"] < found["held_out_loss_of_base"] - 0.2
    assert (found["modules"], found["steps"], found["rows"], found["processes"]) == (8, 6, 20, 1)
    assert found["stop_token"] != found["padding_token"]
    assert found["precision"] == "float32"
    assert set(found["libraries"]) == {"accelerate", "bitsandbytes", "peft"}
    assert {"train.jsonl", "held_out.jsonl", "phi3"} == set(found["inputs"])
    assert not checkpoints_path(whole.run).exists()


def test_the_losses_are_kept_as_numbers_and_as_a_picture(whole: Tune) -> None:
    """Before the first step, every third and the last for held-out rows; every step for the others."""
    losses = json.loads((adapter_path(whole.run) / "losses.json").read_text(encoding="utf-8"))
    assert [step for step, _ in losses["train"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in losses["held_out"]] == [0, 3, 6]
    assert (adapter_path(whole.run) / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in adapter_path(whole.run).iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "loss.png", "losses.json",
    ]  # fmt: skip


def test_a_curve_without_a_held_out_loss_is_drawn(tmp_path: Path) -> None:
    """A run killed early has training losses alone."""
    assert write_curve([{"step": 1, "loss": 2.0}, {"step": 1, "grad_norm": 1.0}], tmp_path)["held_out"] == []
    assert (tmp_path / "loss.png").is_file()


@pytest.mark.parametrize(
    ("killed", "found", "told"),
    [
        (IN_A_CHECKPOINT, {"checkpoint-2", "checkpoint-4"}, "checkpoint-4 is not used: its writing was interrupted"),
        (IN_A_STEP, {"checkpoint-2"}, "going on from checkpoint-2"),
    ],
    ids=["in a checkpoint", "in a step"],
)
def test_a_killed_fine_tune_ends_with_the_same_weights(
    killed: str, found: set[str], told: str, whole: Tune, bases: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL in the middle, and inside the write of a checkpoint: the final adapter is the same to the bit."""
    tune = make_tune(tmp_path, bases["phi3"], Style.PHI3, qlora=DROPOUT)
    assert tune.script(killed).returncode == -9
    assert {path.name for path in checkpoints_path(tune.run).iterdir()} == found
    assert not adapter_path(tune.run).exists()
    done = tune.stage("qlora")
    assert done.returncode == 0, done.stderr
    assert told in done.stderr
    assert "going on from checkpoint-2" in done.stderr
    assert "step 1/6" not in done.stderr
    assert weights_of(tune) == weights_of(whole)
    assert manifest(tune)["held_out_loss"] == manifest(whole)["held_out_loss"]


def test_a_finished_fine_tune_is_not_run_again(whole: Tune, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows, base and settings: nothing to do."""
    before = manifest_of(adapter_path(whole.run)).read_bytes()
    whole.here("qlora")
    assert "qlora: nothing to do" in capsys.readouterr().err
    assert manifest_of(adapter_path(whole.run)).read_bytes() == before


def checkpoint(folder: Path, step: int, run: str = "this run") -> Path:
    """A checkpoint with two files, complete."""
    path = folder / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"state" * 100)
    (path / "deep" / "weights").write_bytes(b"weights")
    mark_complete(path, run, 12.5)
    return path


def test_the_last_complete_checkpoint_is_used(tmp_path: Path) -> None:
    """Numbers are compared as numbers, older ones are deleted, and the time spent is known."""
    for step in (20, 100, 9):
        checkpoint(tmp_path, step)
    found = last_complete(tmp_path, "this run")
    assert found == tmp_path / "checkpoint-100"
    assert seconds_spent(found) == 12.5
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]
    assert last_complete(tmp_path / "none", "this run") is None


@pytest.mark.parametrize("broken", ["truncated", "missing", "added", "no list", "half a list", "of another run"])
def test_a_broken_checkpoint_is_deleted(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one before it is used, and the run says why."""
    kept, last = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4, "another" if "another" in broken else "this run")
    match broken:
        case "truncated":
            (last / "optimizer.pt").write_bytes(b"state")
        case "missing":
            (last / "deep" / "weights").unlink()
        case "added":
            (last / "more").write_bytes(b"")
        case "no list":
            (last / "complete.json").unlink()
        case "half a list":
            (last / "complete.json").write_text('{"run": ', encoding="utf-8")
    assert last_complete(tmp_path, "this run") == kept
    assert not last.exists()
    assert "checkpoint-4 is not used" in capsys.readouterr().err


def test_over_long_rows_stop_the_stage(bases: dict[str, Path], tmp_path: Path) -> None:
    """Before the base is even loaded."""
    tune = make_tune(tmp_path, bases["phi3"], Style.PHI3, qlora={"longest_tokens": 64})
    with pytest.raises(TrainingError, match="20 rows are longer than 64 tokens"):
        tune.here("qlora")


def test_missing_rows_name_the_stage_that_makes_them(bases: dict[str, Path], tmp_path: Path) -> None:
    """`prepare` comes first."""
    tune = make_tune(tmp_path, bases["phi3"], Style.PHI3)
    train_path(tune.run).unlink()
    with pytest.raises(StaleArtefactError, match=r"train\.jsonl is missing; .*training\.prepare"):
        tune.here("qlora")


def test_an_embedded_model_is_tuned_on_slots(tiny: TinyRun, tmp_path: Path) -> None:
    """The base is the folder that `pretrain` writes; rows, vocabulary and end token are those of the embedded model."""
    vocabulary = tokenizer_path(tiny.run)
    base = tmp_path / "base"
    save(build_model(tiny.run.pretrain, Tokenizer(vocabulary), 1), vocabulary, base)
    tune = make_tune(tmp_path, base, Style.SLOTS, qlora={"longest_tokens": 1024, "steps": 4})
    tune.run.folder.mkdir()
    for path in (train_path(tune.run), held_out_path(tune.run)):
        shutil.copy(tiny.run.folder / path.name, path)
        write_manifest(path, "synthesise", [], {}, 17)
    tune.here("qlora")
    assert (manifest(tune)["modules"], manifest(tune)["stop_token"]) == (7, 2)
    assert manifest(tune)["held_out_loss"] < manifest(tune)["held_out_loss_of_base"]
    tune.here("merge")
    merged = model_path(tune.run)
    assert (merged / "tokenizer.model").read_bytes() == vocabulary.read_bytes()
    assert read_input(merged, "")["merged_loss"] == pytest.approx(manifest(tune)["held_out_loss"], abs=0.02)


def test_rows_of_another_style_are_refused(tiny: TinyRun, bases: dict[str, Path], tmp_path: Path) -> None:
    """Slots rows for a chat model: the line is named."""
    tune = make_tune(tmp_path, bases["phi3"], Style.PHI3)
    rows = [json.loads(line) for line in train_path(tiny.run).read_text(encoding="utf-8").splitlines()[:3]]
    write_rows(train_path(tune.run), rows)
    with pytest.raises(TrainingError, match=r"train\.jsonl, line 1: not a row of this kind"):
        tune.here("qlora")


def test_a_base_of_the_hub_is_fetched_at_its_revision(bases: dict[str, Path], tmp_path: Path) -> None:
    """Weights, settings and every tokenizer file, from a stand-in of the Hub; code and other formats are left there."""
    repo = "owner/tiny-phi"
    with serve_hub() as hub:
        content = {path.name: path.read_bytes() for path in bases["phi3"].iterdir()}
        content |= {"modeling_phi3.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "README.md": b"# Tiny"}
        hub.files = {f"/{repo}/resolve/{COMMIT}/{name}": data for name, data in content.items()}
        listing = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in content]}
        tree = [{"type": "file", "path": name, "size": len(d), "oid": "0" * 40} for name, d in content.items()]
        hub.files[f"/api/models/{repo}/revision/{COMMIT}"] = json.dumps(listing).encode()
        hub.files[f"/api/models/{repo}/tree/{COMMIT}?recursive=true&expand=false"] = json.dumps(tree).encode()
        code = (
            "from training.adapter import base_folder; from training.config import BaseModelConfig; "
            f"print(base_folder(BaseModelConfig(model={repo!r}, revision={COMMIT!r}, style='phi3', "
            "gguf_name='Phi-3', licence='mit')))"
        )
        environment = {key: value for key, value in ENVIRONMENT.items() if key != "HF_HUB_OFFLINE"} | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        fetched = Path(done.stdout.strip())
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
            path.name: path.read_bytes() for path in bases["phi3"].iterdir()
        }
        assert fetched.name == COMMIT
