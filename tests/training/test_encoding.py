"""Rows -> token ids: loss on the answer only, the end token trained, nothing cut, and the ids that serving makes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("sentencepiece", reason="needs the training environment")

from transformers import AutoTokenizer

from backend.core.prompt import SYSTEM_PROMPT, Piece, Style, render
from tests.training.bases import chat_rows, make_llama_base, make_phi3_base, make_qwen_base
from tests.training.conftest import TinyRun
from tests.training.tunes import write_rows
from training.artefacts import sha256
from training.config import BaseModelConfig
from training.encoding import ChatEncoder, SlotsEncoder, check_example, load_dialogues, open_encoder, padding_token
from training.errors import TrainingError
from training.paths import tokenizer_path, train_path
from training.pretrain import Example, collate
from training.synthesise import facts_from_json
from training.tokenizer import Tokenizer

pytestmark = pytest.mark.training

MAKERS = {Style.PHI3: make_phi3_base, Style.ZEPHYR: make_llama_base, Style.CHATML: make_qwen_base}
ENDS = {Style.PHI3: "<|end|>", Style.ZEPHYR: "</s>", Style.CHATML: "<|im_end|>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Style, Path]:
    """A tiny base of each style."""
    root = tmp_path_factory.mktemp("bases")
    return {style: make(root / style.value) for style, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS), ids=lambda style: style.value)
def style(request: pytest.FixtureRequest) -> Style:
    """Each chat style in turn."""
    return Style(request.param)


@pytest.fixture
def encoder(style: Style, folders: dict[Style, Path]) -> ChatEncoder:
    """The encoder of the base of that style."""
    return encoder_of(style, folders)


def encoder_of(style: Style, folders: dict[Style, Path]) -> ChatEncoder:
    """The encoder of a base."""
    found = open_encoder(base_of(style, folders[style]), folders[style])
    assert isinstance(found, ChatEncoder)
    return found


def base_of(style: Style, folder: Path) -> BaseModelConfig:
    """The configuration of a base in a folder."""
    return BaseModelConfig(model=str(folder), style=style, gguf_name="Phi-3-tiny", licence="mit")


def row(answer: str, asked: str = "J'ai mal au ventre.") -> dict[str, Any]:
    """A row with this question and answer."""
    messages = [("system", SYSTEM_PROMPT), ("user", asked), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def text_of(encoder: ChatEncoder, ids: tuple[int, ...]) -> str:
    """The text of ids, special tokens included."""
    return str(encoder._tokenizer.decode(list(ids)))


def test_bases_are_the_same_each_time(tmp_path: Path) -> None:
    """The same call makes the same bytes, so figures of tests can be compared between runs."""
    for make in MAKERS.values():
        assert sha256(make(tmp_path / "one")) == sha256(make(tmp_path / "two"))


def test_the_last_label_of_every_row_is_the_stop_token(encoder: ChatEncoder, style: Style) -> None:
    """The end of an answer is learnt, whatever padding follows it in a batch."""
    examples = [encoder.example(one) for one in chat_rows(12)]
    stop = encoder._tokenizer.convert_tokens_to_ids(ENDS[style])
    assert encoder.stop == stop
    _, mask_BT, labels_BT = collate(examples, encoder.pad)
    for example, mask, labels in zip(examples, mask_BT, labels_BT, strict=True):
        learnt = labels[labels != -100]
        assert learnt[-1] == stop
        assert learnt.tolist() == list(example.ids[example.reply_start :])
        assert int(mask.sum()) == len(example.ids)


def test_only_the_answer_is_learnt(encoder: ChatEncoder) -> None:
    """The prompt, the patient's words included, has no label; the answer has all of its text."""
    example = encoder.example(row("Cela peut être une gastrite."))
    assert text_of(encoder, example.ids[example.reply_start : -1]).strip() == "Cela peut être une gastrite."
    assert "J'ai mal au ventre." in text_of(encoder, example.ids[: example.reply_start])
    assert encoder.stop not in example.ids[example.reply_start : -1]


def test_padding_is_not_the_end_token(encoder: ChatEncoder) -> None:
    """TinyLlama pads with its end token as published; here another of its tokens pads, and none is added."""
    assert encoder.pad != encoder.stop
    assert 0 <= encoder.pad < encoder.size


def test_a_collator_that_masks_the_padding_token_would_unlearn_the_end(folders: dict[Style, Path]) -> None:
    """The trap itself: with padding equal to the end token, masking by token leaves answers without their end."""
    tokenizer = AutoTokenizer.from_pretrained(folders[Style.ZEPHYR])
    encoder = encoder_of(Style.ZEPHYR, folders)
    example = encoder.example(chat_rows(1)[0])
    answer = example.ids[example.reply_start :]
    assert tokenizer.pad_token_id == encoder.stop
    assert [token for token in answer if token != tokenizer.pad_token_id] == list(answer[:-1])
    assert [token for token in answer if token != encoder.pad] == list(answer)


def test_a_base_that_can_only_pad_with_its_end_token_is_refused() -> None:
    """No token is added for padding: the vocabulary of the base stays as it is."""
    only = SimpleNamespace(pad_token_id=2, unk_token_id=None, eos_token_id=2)
    with pytest.raises(TrainingError, match="no token to pad with"):
        padding_token(only, stop=2)
    assert padding_token(SimpleNamespace(pad_token_id=2, unk_token_id=0, eos_token_id=2), stop=2) == 0


def test_over_long_rows_are_refused_not_cut(encoder: ChatEncoder, tmp_path: Path) -> None:
    """The message counts them and names the longest line and the stage that leaves them out."""
    path = tmp_path / "train.jsonl"
    write_rows(path, [row("Oui."), row("Consultez. " * 80), row("Consultez. " * 60)])
    with pytest.raises(TrainingError, match=r"2 rows are longer than 128 tokens \(line 2 has .*training\.prepare"):
        load_dialogues(path, encoder, 128)
    assert len(load_dialogues(path, encoder, 4096)) == 3


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example((1, 5, 6, 7), 2), "does not end with the stop token"),
        (Example((1, 5, 9), 2), "the answer is empty"),
        (Example((1, 5, 9), 3), "the answer is empty"),
    ],
)
def test_a_truncated_answer_is_refused(example: Example, message: str) -> None:
    """An answer cut at a length has lost its end token; one of nothing but the end token teaches silence."""
    with pytest.raises(TrainingError, match=f"row 7: .*{message}"):
        check_example(example, 9, "row 7")


@pytest.mark.parametrize(
    "line",
    ['{"messages": []}', '{"prompt": []}', "nonsense", json.dumps(row("  ")), json.dumps({"messages": [{}]})],
)
def test_a_malformed_row_is_named(line: str, encoder: ChatEncoder, tmp_path: Path) -> None:
    """File and line, before anything is trained."""
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row("Oui.")) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"train\.jsonl, line 2"):
        load_dialogues(path, encoder, 512)


def test_a_file_without_rows_is_refused(encoder: ChatEncoder, tmp_path: Path) -> None:
    """Nothing to train on is an error, not a model."""
    path = tmp_path / "train.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(TrainingError, match="holds no row"):
        load_dialogues(path, encoder, 512)


@pytest.mark.parametrize("place", ["question", "answer"])
def test_a_marker_that_a_person_types_is_text(place: str, encoder: ChatEncoder, style: Style) -> None:
    """Special tokens come from the template alone; a typed one neither ends a turn nor an answer."""
    typed = f"avant {ENDS[style]} après </s> <|user|> fin"
    ours = encoder.example(row(typed) if place == "answer" else row("Oui, bien sûr.", typed))
    plain = encoder.example(row("Oui, bien sûr."))
    special = {*encoder._tokenizer.all_special_ids, encoder._tokenizer.convert_tokens_to_ids(ENDS[style])}

    def counted(example: Example) -> int:
        return sum(token in special for token in example.ids)

    assert counted(ours) == counted(plain)
    assert typed.replace(" ", "") in text_of(encoder, ours.ids).replace(" ", "")


def test_prompts_are_those_of_the_service(encoder: ChatEncoder, style: Style, tiny: TinyRun) -> None:
    """Markers and texts are cut as `render` cuts them, so that serving makes the same ids."""
    for line in train_path(tiny.run).read_text(encoding="utf-8").splitlines()[:5]:
        content = json.loads(line)
        pieces = render(facts_from_json(content["facts"]), content["text"], style).pieces
        user = "".join(piece.text for piece in pieces if not piece.special).removeprefix(SYSTEM_PROMPT)
        asked = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user}]
        assert encoder.encode(encoder.prompt_pieces(asked)) == encoder.encode(pieces)


def test_each_stretch_of_text_begins_like_a_word(folders: dict[Style, Path]) -> None:
    """llama.cpp begins every stretch after a special token with a space for a Llama vocabulary; so do we."""
    encoder = encoder_of(Style.ZEPHYR, folders)
    ids = encoder.encode([Piece("</s>\n<|user|>\n", special=True), Piece("mal")])
    pieces = encoder._tokenizer.convert_ids_to_tokens(ids)
    assert pieces[:3] == ["</s>", "▁", "<0x0A>"]
    assert pieces[-1] == "▁mal"


def test_a_marker_of_phi3_swallows_the_line_break_after_it(folders: dict[Style, Path]) -> None:
    """As its tokenizer says and llama.cpp does for models named Phi-3."""
    encoder = encoder_of(Style.PHI3, folders)
    ids = encoder.encode([Piece("<|end|>\n<|assistant|>\n", special=True)])
    assert encoder._tokenizer.convert_ids_to_tokens(ids) == ["<|end|>", "<|assistant|>"]


def test_the_template_of_another_family_is_refused(folders: dict[Style, Path]) -> None:
    """The style in the configuration must be what the base's own template writes."""
    with pytest.raises(TrainingError, match=r"base\.style is zephyr, but .*<\|end\|>"):
        open_encoder(base_of(Style.ZEPHYR, folders[Style.PHI3]), folders[Style.PHI3])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "no special token"),
        ("{{ messages[0].content }}</s>", "every message once"),
        ("{{ raise_exception('no system turn') }}", "cannot be rendered"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_refused(
    template: str, message: str, folders: dict[Style, Path]
) -> None:
    """One that does not end a turn, leaves a message out, or fails."""
    tokenizer = AutoTokenizer.from_pretrained(folders[Style.ZEPHYR])
    tokenizer.chat_template = template
    with pytest.raises(TrainingError, match=message):
        ChatEncoder(tokenizer)


def test_a_template_that_changes_a_message_is_refused(folders: dict[Style, Path]) -> None:
    """One that capitalises would be served something else than what was trained."""
    tokenizer = AutoTokenizer.from_pretrained(folders[Style.ZEPHYR])
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "(message['content'] | upper)")
    with pytest.raises(ValueError, match="changes a message"):
        ChatEncoder(tokenizer).example(chat_rows(1)[0])


def test_rows_for_our_own_base_are_those_of_pretrain(tiny: TinyRun) -> None:
    """A base from `pretrain` is tuned on slots rows, in its own vocabulary."""
    encoder = SlotsEncoder(Tokenizer(tokenizer_path(tiny.run)))
    examples = load_dialogues(train_path(tiny.run), encoder, 1024)
    assert len(examples) == 100
    assert all(example.ids[-1] == encoder.stop != encoder.pad for example in examples)
    with pytest.raises(TrainingError, match="are longer than 64 tokens"):
        load_dialogues(train_path(tiny.run), encoder, 64)
