"""Who may import whom: read from the source, so that a shortcut shows as a failing test.

routes -> core      engine -> core.ports      training -> core, engine.manifest
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
WEB_AND_RUNTIME = ("fastapi", "starlette", "uvicorn", "httpx", "pydantic_settings", "llama_cpp", "huggingface_hub")
"""What the core knows nothing of."""


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it; `from a import b` counts as `a` and as `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def modules(folder: str) -> list[Path]:
    """The Python files of a folder of the repository, subfolders too."""
    found = sorted((REPOSITORY / folder).rglob("*.py"))
    assert found, folder
    return found


def within(name: str, *packages: str) -> bool:
    """Whether a module is one of `packages` or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def breaches(folder: str, *forbidden: str, allowed: tuple[str, ...] = ()) -> set[tuple[str, str]]:
    """(file, module) for every import of something forbidden that is not allowed after all."""
    return {
        (str(path.relative_to(REPOSITORY)), name)
        for path in modules(folder)
        for name in imports_of(path)
        if within(name, *forbidden) and not within(name, *allowed)
    }


def who_imports(folder: str, package: str) -> set[str]:
    """The files of a folder that import a package."""
    return {file for file, _ in breaches(folder, package)}


def test_the_core_knows_no_web_and_no_model_runtime() -> None:
    """The rules can be used, and read, without either."""
    assert breaches("backend/core", *WEB_AND_RUNTIME) == set()


def test_the_core_imports_nothing_of_the_service() -> None:
    """Of our own code, the core imports only itself."""
    assert breaches("backend/core", "backend", "training", allowed=("backend.core",)) == set()


def test_only_one_module_opens_llama_cpp() -> None:
    """One door to the native library."""
    assert who_imports("backend", "llama_cpp") == {"backend/engine/llama.py"}


def test_only_one_module_talks_to_the_hub() -> None:
    """One door to the network."""
    assert who_imports("backend", "huggingface_hub") == {"backend/engine/hub.py"}


def test_the_engine_knows_the_core_by_its_ports_and_prompts() -> None:
    """The engine can be replaced: it knows no rule of medicine, no route and no reply writer."""
    allowed = (
        "backend.engine",
        "backend.core.ports",
        "backend.core.prompt",
        "backend.errors",
        "backend.log",
        "backend.settings",
    )
    assert breaches("backend/engine", "backend", "training", allowed=allowed) == set()


def test_only_the_app_factory_knows_the_engine() -> None:
    """Routes, replies and schemas work with any model behind the port."""
    outside = {file for file in who_imports("backend", "backend.engine") if not file.startswith("backend/engine/")}
    assert outside == {"backend/main.py"}


def test_only_the_app_factory_knows_the_routes() -> None:
    """Nothing below the web layer reaches up to it."""
    assert who_imports("backend", "backend.routes") == {"backend/main.py"}
    assert who_imports("backend", "backend.main") == {"backend/__main__.py"}


def test_the_web_framework_stays_in_the_web_layer() -> None:
    """Three modules know that there is HTTP."""
    assert who_imports("backend", "fastapi") | who_imports("backend", "starlette") == {
        "backend/main.py", "backend/routes.py", "backend/body_limit.py",
    }  # fmt: skip


def test_training_shares_the_core_and_the_manifest() -> None:
    """What serves is what trains: the core and the manifest; evaluation opens the finished model as the server does."""
    allowed = ("backend.core", "backend.engine.manifest")
    assert {file for file, _ in breaches("training", "backend", allowed=allowed)} <= {
        "training/embedded.py", "training/evaluate.py", "training/quantize.py",
    }  # fmt: skip
    opens_the_model = (*allowed, "backend.engine.llama", "backend.engine.host")
    assert breaches("training", "backend", allowed=opens_the_model) == set()


def test_the_service_imports_nothing_of_its_workshop() -> None:
    """Training, benchmarks and tests, and what only they need, are not shipped."""
    assert (
        breaches("backend", "training", "benchmarks", "tests", "torch", "transformers", "sentencepiece", "yaml")
        == set()
    )


@pytest.mark.parametrize("name", ["environ", "getenv"])
def test_only_the_settings_read_the_environment(name: str) -> None:
    """The opener hands it to `usable_cpus`, which looks for what the platform, not the user, sets."""
    found = {
        str(path.relative_to(REPOSITORY))
        for path in modules("backend")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.Attribute)
            and node.attr == name
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        )
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and name in {alias.name for alias in node.names})
    }
    assert found <= {"backend/settings.py", "backend/engine/opener.py"}


def test_imports_are_read_wherever_they_stand(tmp_path: Path) -> None:
    """The reader itself: at the top, inside a function, under another name."""
    source = tmp_path / "source.py"
    source.write_text("import a.b as c\ndef f():\n    from d import e\n    import g\n")
    assert imports_of(source) == {"a.b", "d", "d.e", "g"}
