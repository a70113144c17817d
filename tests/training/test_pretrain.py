"""Training from scratch: every example once an epoch, loss on replies only, interruptions that leave no trace."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("sentencepiece", reason="needs the training environment")

import torch
from transformers import LlamaForCausalLM

from tests.training.conftest import TinyRun
from training import pretrain
from training.artefacts import read_input
from training.config import EvaluateConfig, PretrainConfig, ScratchRun, SynthesiseConfig, TokenizerConfig
from training.errors import StaleArtefactError
from training.paths import checkpoints_path, command_of, model_path, tokenizer_path, train_path
from training.pretrain import (
    Example,
    build_model,
    collate,
    load_examples,
    plan_batches,
    rate_at,
    save,
    train,
)
from training.tokenizer import Tokenizer

pytestmark = pytest.mark.training

CONFIG = PretrainConfig(
    hidden=256, layers=1, heads=4, kv_heads=2, feed_forward=256, context=128, batch_tokens=256, steps=6,
    learning_rate=0.01, warmup_steps=2, save_every_steps=2,
)  # fmt: skip
DATA = "hash-of-the-examples"


def fake_tokenizer() -> Tokenizer:
    """What `train` asks of a vocabulary: its size and its two ends."""
    return SimpleNamespace(size=64, bos=1, eos=2)  # type: ignore[return-value]  # a fake


def examples(count: int = 12, seed: int = 0) -> list[Example]:
    """Examples of 8 to 60 tokens, the second half of each a reply."""
    rng = random.Random(seed)
    lengths = [rng.randint(8, 60) for _ in range(count)]
    return [Example(tuple(rng.randint(3, 63) for _ in range(length)), length // 2) for length in lengths]


def run_in(folder: Path, config: PretrainConfig = CONFIG, seed: int = 17) -> ScratchRun:
    """A run whose checkpoints go to `folder`."""
    folder.mkdir(exist_ok=True)
    return ScratchRun(
        name="tiny", folder=folder, model=folder / "tiny.gguf", seed=seed, pretrain=config, evaluate=EvaluateConfig(),
        synthesise=SynthesiseConfig(consultations=10, invented=0), tokenizer=TokenizerConfig(vocabulary=300),
    )  # fmt: skip


def weights(model: LlamaForCausalLM) -> list[torch.Tensor]:
    """The parameters, detached."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Whether every weight is bit for bit the same."""
    return all(torch.equal(one, two) for one, two in zip(left, right, strict=True))


def trained_in(folder: Path, config: PretrainConfig = CONFIG, seed: int = 17, data: str = DATA) -> list[torch.Tensor]:
    """The weights after the configured steps, from whatever checkpoint lies in `folder`."""
    return weights(train(examples(), fake_tokenizer(), run_in(folder, config, seed), data)[0])


class Killed(Exception):
    """Stands for a run that is killed."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several cores, above all on busy ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def interrupt_at(step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in `folder` until just before `step`."""

    def rate_or_die(at: int, config: PretrainConfig) -> float:
        if at == step:
            raise Killed
        return rate_at(at, config)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "rate_at", rate_or_die)
        with pytest.raises(Killed):
            trained_in(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    """The weights of a run that nothing stopped."""
    return trained_in(tmp_path_factory.mktemp("whole"))


@given(st.lists(st.integers(2, 300), min_size=1, max_size=60), st.integers(256, 1024), st.integers(0, 3))
def test_batches_hold_every_example_once_within_the_budget(lengths: list[int], budget: int, epoch: int) -> None:
    """An example longer than the budget is alone; all others share padded batches that fit."""
    given_examples = [Example(tuple([5] * length), 1) for length in lengths]
    batches = plan_batches(given_examples, budget, 17, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


def test_batches_are_seeded_and_differ_from_epoch_to_epoch() -> None:
    """The same seed and epoch give the same batches in the same order."""
    plans = [plan_batches(examples(60), 256, seed, epoch) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert plans[0] == plans[1]
    assert plans[0] not in (plans[2], plans[3])


def test_little_is_lost_to_padding() -> None:
    """Like lengths share a batch: on mixed lengths, at most one position of eight is padding."""
    given_examples = examples(400)
    batches = plan_batches(given_examples, 2048, 17, 0)
    padded = sum(len(batch) * max(len(given_examples[i].ids) for i in batch) for batch in batches)
    assert sum(len(example.ids) for example in given_examples) / padded > 7 / 8


def test_collate_masks_the_prompt_and_the_padding() -> None:
    """Only reply tokens have a label; padding is neither attended to nor learnt."""
    ids_BT, mask_BT, labels_BT = collate([Example((1, 7, 8, 2), 2), Example((1, 9), 1)], pad=2)
    assert ids_BT.tolist() == [[1, 7, 8, 2], [1, 9, 2, 2]]
    assert mask_BT.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert labels_BT.tolist() == [[-100, -100, 8, 2], [-100, 9, -100, -100]]


def test_examples_are_a_prompt_and_its_reply(tiny: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Each starts with the beginning, ends with the end, and knows where its reply starts."""
    tokenizer = Tokenizer(tokenizer_path(tiny.run))
    source = train_path(tiny.run)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    loaded = load_examples(source, tokenizer, 1024)
    assert len(loaded) == len(rows)
    for row, example in zip(rows, loaded, strict=True):
        assert example.ids[: example.reply_start] == tuple(tokenizer.prompt([(t, s) for t, s in row["prompt"]]))
        assert example.ids[example.reply_start :] == tuple(tokenizer.reply(row["reply"]))
    longest = sorted(len(example.ids) for example in loaded)[-3]
    assert max(len(example.ids) for example in load_examples(source, tokenizer, longest)) <= longest
    assert "too long" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (110, 0.1)])
def test_the_rate_warms_up_and_ends_at_a_tenth(step: int, share: float) -> None:
    """From a first small step up to the full rate, then down along a cosine."""
    config = CONFIG.model_copy(update={"steps": 110, "warmup_steps": 10, "learning_rate": 2.0})
    assert rate_at(step, config) == pytest.approx(2.0 * share)


def test_the_rate_never_rises_after_the_warm_up() -> None:
    """Monotone both ways, and full from the first step when there is no warm-up."""
    config = CONFIG.model_copy(update={"steps": 50, "warmup_steps": 5})
    rates = [rate_at(step, config) for step in range(50)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rate_at(0, config.model_copy(update={"warmup_steps": 0})) == config.learning_rate


def test_a_fresh_model_is_seeded_and_ties_its_embeddings() -> None:
    """The same seed gives the same weights; input and output share one table."""
    one, two, other = (build_model(CONFIG, fake_tokenizer(), seed) for seed in (1, 1, 2))
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    assert one.get_input_embeddings().weight.shape == (64, 256)


def test_training_learns(tmp_path: Path) -> None:
    """Twenty steps on a dozen examples take the loss far below that of guessing, and everything is counted."""
    config = CONFIG.model_copy(update={"steps": 20, "save_every_steps": 100})
    _, facts = train(examples(), fake_tokenizer(), run_in(tmp_path, config), DATA)
    assert facts["last_loss"] < math.log(64) - 1
    assert facts["tokens"] > 20 * 100
    assert facts["parameters"] > 256 * 64


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_an_interrupted_training_ends_with_the_same_weights(
    step: int, tmp_path: Path, uninterrupted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first checkpoint, on one or between two, a run goes on as if nothing had happened."""
    interrupt_at(step, tmp_path, monkeypatch)
    assert (checkpoints_path(run_in(tmp_path)) / "state.pt").is_file() is (step > 2)
    assert same(trained_in(tmp_path), uninterrupted)


def test_a_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps before the last checkpoint are not done again, and their tokens are counted."""
    interrupt_at(5, tmp_path, monkeypatch)
    capsys.readouterr()
    steps: list[int] = []

    def counting(at: int, config: PretrainConfig) -> float:
        steps.append(at)
        return rate_at(at, config)

    monkeypatch.setattr(pretrain, "rate_at", counting)
    _, facts = train(examples(), fake_tokenizer(), run_in(tmp_path), DATA)
    assert steps == [4, 5]
    assert "going on from step 4" in capsys.readouterr().err
    whole = train(examples(), fake_tokenizer(), run_in(tmp_path / "whole"), DATA)[1]
    assert (facts["tokens"], facts["last_loss"]) == (whole["tokens"], whole["last_loss"])


@pytest.mark.parametrize(
    ("config", "seed", "data"),
    [
        (CONFIG, 17, "hash-of-other-examples"),
        (CONFIG, 18, DATA),
        (CONFIG.model_copy(update={"learning_rate": 0.02}), 17, DATA),
    ],
    ids=["examples", "seed", "settings"],
)
def test_a_checkpoint_of_something_else_is_not_used(
    config: PretrainConfig, seed: int, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Other examples, another seed or other settings start from the beginning, and the run says so."""
    interrupt_at(5, tmp_path, monkeypatch)
    fresh = trained_in(tmp_path / "fresh", config, seed, data)
    capsys.readouterr()
    assert same(trained_in(tmp_path, config, seed, data), fresh)
    assert "starting again" in capsys.readouterr().err


def test_a_checkpoint_is_written_at_once(
    tmp_path: Path, uninterrupted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed while it writes a checkpoint leaves the one before whole."""
    write, written = torch.save, []

    def die_in_the_second(state: object, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half")
            raise Killed
        write(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", die_in_the_second)
        with pytest.raises(Killed):
            trained_in(tmp_path)
    assert same(trained_in(tmp_path), uninterrupted)


def test_a_saved_model_is_what_was_trained(tiny: TinyRun, tmp_path: Path) -> None:
    """The folder holds the weights, the vocabulary and what the converter must know of it; an old one is replaced."""
    vocabulary = tokenizer_path(tiny.run)
    model = build_model(CONFIG, Tokenizer(vocabulary), 1)
    target = tmp_path / "hf"
    target.mkdir()
    (target / "old.txt").write_text("old", encoding="utf-8")
    save(model, vocabulary, target)
    assert same(weights(LlamaForCausalLM.from_pretrained(target)), weights(model))
    assert (target / "tokenizer.model").read_bytes() == vocabulary.read_bytes()
    settings = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["add_bos_token"], settings["add_eos_token"], settings["add_prefix_space"]) == (True, False, False)
    assert not (target / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_the_stage_leaves_a_model_and_no_checkpoint(trained: TinyRun) -> None:
    """The manifest records tokens, time and loss; a second run does nothing."""
    run = trained.run
    manifest = read_input(model_path(run), command_of("pretrain"))
    assert {"tokens", "seconds", "last_loss", "parameters"} <= set(manifest)
    assert set(manifest["inputs"]) == {"train.jsonl", "tokenizer.model"}
    assert not checkpoints_path(run).exists()
    assert "nothing to do" in trained.stage("pretrain").stderr


def test_the_stage_refuses_a_vocabulary_that_was_touched(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the command that makes the vocabulary again."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in tiny.run.folder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "tokenizer.model").open("ab") as file:
        file.write(b"x")
    config = tmp_path / "other.yaml"
    config.write_text(tiny.config.read_text(encoding="utf-8").replace(str(tiny.run.folder), str(folder)))
    monkeypatch.setattr("sys.argv", ["pretrain", "--config", str(config)])
    with pytest.raises(StaleArtefactError, match=r"tokenizer\.model differs.*python -m training\.tokenizer"):
        pretrain.main()
