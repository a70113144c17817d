"""Tiny base models made on the spot, with the files that the real ones have on the Hub: nothing is downloaded.

`make_phi3_base` has the layout of microsoft/Phi-3-mini-4k-instruct (fused projections, a sentencepiece vocabulary
followed by eleven added tokens, rows padded to a multiple of 64), `make_llama_base` that of TinyLlama-1.1B-Chat (no
added token, padding equal to the end of text, zephyr template), `make_qwen_base` that of Qwen2.5 (byte-level BPE, no
`tokenizer.model`, tied embeddings). The weights are random, seeded: the same call makes the same bytes.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.prompt import SYSTEM_PROMPT, user_text

_ROOT = Path(__file__).parents[2]
_PIECES = 1000
_SEED = 5
_ROLES_PHI3 = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>",
    "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
)  # fmt: skip
_MARKERS_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ENGLISH = (
    "Hello, thank you for your question. I have read your description of the symptoms and I understand your concern.",
    "The pain that you feel may be caused by an inflammation of the stomach, which is usually not dangerous.",
    "If you have a high fever, trouble breathing or chest pain, please go to the emergency department today.",
    "Drink enough water, take some rest, and see your doctor this week so that a physical examination can be done.",
    "What are the treatments for this disease? What causes it, and how many people are affected?",
)

# As published with each model.
PHI3_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + "
    "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR_TEMPLATE = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_phi3_base(folder: Path) -> Path:
    """A 2-layer Phi-3 in `folder`, with its tokenizer, template and generation settings."""
    first = _PIECES
    added = {
        **_pieces_as_added(),
        2: _added("</s>", special=False, rstrip=True),
        **{first + place: _added(role, rstrip=place > 0) for place, role in enumerate(_ROLES_PHI3)},
    }
    end_of_text, assistant, end = first, first + 1, first + 7
    config = Phi3Config(
        vocab_size=_rows(first + len(_ROLES_PHI3)), hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        original_max_position_embeddings=4096, sliding_window=2047, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=end_of_text, pad_token_id=end_of_text,
    )  # fmt: skip
    generation = GenerationConfig(
        bos_token_id=1, eos_token_id=[end_of_text, assistant, end], pad_token_id=end_of_text
    )  # fmt: skip
    _save_model(Phi3ForCausalLM, config, generation, folder)
    settings = {
        "add_bos_token": False, "add_eos_token": False, "bos_token": "<s>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "unk_token": "<unk>", "legacy": False, "model_max_length": 4096,
        "padding_side": "left", "tokenizer_class": "LlamaTokenizer", "chat_template": PHI3_TEMPLATE,
    }  # fmt: skip
    _save_sentencepiece(folder, settings, added, beginning=False)
    _write(folder / "added_tokens.json", {role: first + place for place, role in enumerate(_ROLES_PHI3)})
    return folder


def make_llama_base(folder: Path) -> Path:
    """A 2-layer Llama in `folder`, with the tokenizer and template of TinyLlama-Chat."""
    config = LlamaConfig(
        vocab_size=_PIECES, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    _save_model(LlamaForCausalLM, config, GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0), folder)
    settings = {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "legacy": False,
        "model_max_length": 2048, "padding_side": "right", "tokenizer_class": "LlamaTokenizer",
        "chat_template": ZEPHYR_TEMPLATE,
    }  # fmt: skip
    _save_sentencepiece(folder, settings, _pieces_as_added(), beginning=True)
    return folder


def make_qwen_base(folder: Path) -> Path:
    """A 1-layer Qwen2 in `folder`; its tokenizer is a byte-level BPE, which has no `tokenizer.model`."""
    tokenizer = _byte_level()
    markers = {tokenizer.token_to_id(marker): _added(marker) for marker in _MARKERS_QWEN}
    end_of_text, _start, end = sorted(markers)
    config = Qwen2Config(
        vocab_size=_rows(tokenizer.get_vocab_size()), hidden_size=256, intermediate_size=256, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=end_of_text, eos_token_id=end,
    )  # fmt: skip
    generation = GenerationConfig(bos_token_id=end_of_text, eos_token_id=[end, end_of_text], pad_token_id=end_of_text)
    _save_model(Qwen2ForCausalLM, config, generation, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    content = json.loads(tokenizer.to_str())["model"]
    vocabulary = {piece: place for piece, place in content["vocab"].items() if piece not in _MARKERS_QWEN}
    _write(folder / "vocab.json", vocabulary)
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in content["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    settings = {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "model_max_length": 2048,
        "tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML_TEMPLATE,
        "added_tokens_decoder": {str(place): token for place, token in markers.items()},
    }  # fmt: skip
    _write(folder / "tokenizer_config.json", settings)
    return folder


def chat_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as `prepare` writes them: short consultations, in French and in English."""
    places = ("au ventre", "à la tête", "au genou", "dans le dos", "à la gorge")
    rows = []
    for number in range(count):
        place = places[(number + seed) % len(places)]
        if number % 2:
            asked, told, language = f"My pain number {number + seed} is back.", _ENGLISH[number % 4], "en"
        else:
            asked, language = f"J'ai mal {place} depuis {2 + (number + seed) % 9} jours.", "fr"
            told = f"Une douleur {place} est le plus souvent bénigne. Consultez si elle dure."
        messages = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": told},
        ]
        rows.append({"id": f"row-{number}", "source": "jsonl", "language": language, "messages": messages})
    return rows


@functools.cache
def _corpus() -> tuple[str, ...]:
    """Lines of the kind that the models are tuned on: the prompt, the phrases of replies, the knowledge base."""
    facts = Facts(
        level=Urgency.SELF_CARE, who="vous", abstained=False, probable=False, causes=("une migraine",),
        signs=("une douleur à la tête",), advice="Reposez-vous.", worry="Consultez si elle dure.",
    )  # fmt: skip
    pathologies = json.loads((_ROOT / "data" / "pathologies.json").read_text(encoding="utf-8"))[:200]
    phrases = json.loads((_ROOT / "training" / "phrases.json").read_text(encoding="utf-8"))
    lines = [
        *[SYSTEM_PROMPT, *user_text(facts, "J'ai mal à la tête depuis hier.").splitlines()] * 20,
        *_ENGLISH * 20,
        *_strings(phrases),
        *(text for one in pathologies for text in (one["name"], one["advice"], one["when_to_worry"])),
    ]
    return tuple(line for line in lines if line.strip())


def _strings(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)


@functools.cache
def _sentencepiece() -> bytes:
    """A vocabulary trained with the settings of Llama 2's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus()), model_writer=model, vocab_size=_PIECES, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, character_coverage=0.9999, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def _save_sentencepiece(
    folder: Path, settings: dict[str, Any], added: dict[int, dict[str, Any]], *, beginning: bool
) -> None:
    """`tokenizer.model`, and the `tokenizer.json` that the Hub has beside it (the older form, a normalizer)."""
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    processor = sentencepiece.SentencePieceProcessor(model_proto=_sentencepiece())
    pieces = [processor.id_to_piece(place) for place in range(processor.get_piece_size())]
    places = {piece: place for place, piece in enumerate(pieces)}
    # A merge's rank is the rank of what it makes: sentencepiece scores are minus that rank.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        if not processor.is_byte(places[piece]) and not processor.is_control(places[piece])
        for cut in sorted(
            (c for c in range(1, len(piece)) if piece[:c] in places and piece[c:] in places),
            key=lambda c: (places[piece[:c]], places[piece[c:]]),
        )
    ]
    merges.sort(key=lambda merge: places["".join(merge)])
    tokenizer = Tokenizer(models.BPE(vocab=places, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    single = "<s> $A" if beginning else "$A"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1)])
    for _place, token in sorted(added.items()):
        tokenizer.add_tokens([AddedToken(**token)])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {**settings, "added_tokens_decoder": {str(place): token for place, token in sorted(added.items())}},
    )
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    _write(folder / "special_tokens_map.json", {name: settings[name] for name in names})


@functools.cache
def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(iter(_corpus()), trainer)
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in _MARKERS_QWEN])
    return tokenizer


def _save_model(
    family: type[PreTrainedModel], config: Any, generation: GenerationConfig, folder: Path  # noqa: ANN401 - untyped
) -> None:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = family(config).to(torch.bfloat16)
    model.generation_config = generation
    model.save_pretrained(folder)


def _added(content: str, *, special: bool = True, rstrip: bool = False) -> dict[str, Any]:
    return {
        "content": content, "lstrip": False, "normalized": False, "rstrip": rstrip, "single_word": False,
        "special": special,
    }  # fmt: skip


def _pieces_as_added() -> dict[int, dict[str, Any]]:
    return {place: _added(piece) for place, piece in enumerate(("<unk>", "<s>", "</s>"))}


def _rows(tokens: int) -> int:
    """Embedding rows: a multiple of 64, as published models have."""
    return -(-tokens // 64) * 64


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
