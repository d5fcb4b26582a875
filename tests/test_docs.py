"""README and docs are true: every command runs as it stands there, every link leads somewhere, the command line's page
is what the commands say, the pipeline's table what its stages say. `python tests/test_docs.py` writes both again."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import msgspec
import pytest

sys.path.append(str(Path(__file__).parent))  # as a script
sys.path.append(str(Path(__file__).parents[1] / "bench"))
import benchmarks_page
import docstrings
from tiny import QUICK, bert_folder, write_tsv
from waiting import PATIENCE, eventually

from prunetime.cli import main
from prunetime.core.effort import EFFORTS, Effort
from prunetime.pipeline.stages import STAGES
from prunetime.serve.experiments.experiment import read_experiments, report_of
from prunetime.tasks.synthetic import ad_relevance, question_answering
from prunetime.tasks.table import Table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "reference")]
COMMANDS = DOCS / "reference" / "cli.md"
PIPELINE = DOCS / "explanation" / "pipeline.md"

ELSEWHERE = {
    r"^(make|git|cd|python3 -m venv|\.) ": "what CI does before anything else",
    r"^pip install": "tests/test_packaging.py installs; an index is not always there",
    r"^prunetime (demo|doctor)": "`make demo`; tests/cli",
    r"prunetime (trust|pick) ": "tests/pipeline, in minutes",
    r"^(docker|kubectl|systemctl|opentelemetry-instrument|OTEL_)": "tests/serve/test_deploy.py and test_tracing.py",
    r"^prunetime push": "tests/export/test_elsewhere.py, to a stand-in",
    r"^torchrun": "tests/training runs it on two ranks",
    r"--workers": "tests/search/test_cluster.py",
    r"^prunetime prune .*--data texts\.tsv": "tests/pipeline/test_unlabelled.py",
    r"--method multilevel|--precision auto|--doc-stride": "tests/pipeline",
    r"^prunetime (serve|experiment).*(--experiment|--outcomes)": "tests/serve/test_experiments.py and test_replay.py",
    r"^curl [^ ]*/(v1/)?embed": "tests/serve/test_protocols.py",
    r"/experiments/": "tests/serve/test_experiments.py",
    r"runs/mails": "tests/pipeline/test_multi_label.py",
    r"--against openvino": "tests/baselines: it takes long to compile",
}
"""Commands that other tests run, or that no test can."""

SHARED = r"runs/(ads|ads50|auto|demo|demo8)"
"""Runs that pages go on with: one is made and copied, for what a page says is of the shape of the command."""


def blocks(page: Path, language: str) -> list[str]:
    """The code of the page in a language, those of lists without their indentation."""
    found = re.findall(rf"(?m)^( *)```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [textwrap.dedent(code) for _, code in found]


def commands(page: Path) -> list[str]:
    """Of all shell blocks, with lines that go on joined and what is said beside them left out."""
    found: list[str] = []
    for block in blocks(page, "sh"):
        joined = ""
        for line in block.splitlines():
            joined += line.rstrip("\\") + ("" if line.endswith("\\") else "\n")
            if line.endswith("\\") or joined.count("'") % 2:
                continue
            command = re.sub(r"\s+# .*", "", joined.strip())
            if command:
                found.append(command)
            joined = ""
    return found


def runnable(command: str) -> bool:
    return not any(re.search(pattern, command) for pattern in ELSEWHERE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume it: a model, data, a `prunetime` that takes less time, and finished runs."""
    folder = tmp_path_factory.mktemp("workplace")
    ads = ad_relevance(800, 0)
    bert_folder(folder / "my-bert", positions=256, texts=ads.columns["query"] + ads.columns["title"])
    write_tsv(ads, folder / "train.tsv")
    write_tsv(ad_relevance(300, 1), folder / "dev.tsv")
    shutil.copy(folder / "dev.tsv", folder / "test.tsv")
    for name, seed in (("train", 0), ("dev", 1)):
        write_squad(question_answering(32, seed), folder / f"{name}.json")
    (folder / "bin").mkdir()
    program = folder / "bin" / "prunetime"
    lines = [
        f"#!{sys.executable}",
        *QUICK,
        "less = dict(evaluations=24, score_rows=100, finalist_rows=200, importance_rows=64)",
        "EFFORTS['standard'] = dataclasses.replace(EFFORTS['quick'], **less)",
        "from prunetime.cli import main",
        "main()",
    ]
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    program.chmod(0o755)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(folder / "bin")  # as `make demo` leaves it
    first = next(command for command in commands(ROOT / "README.md") if command.startswith("prunetime prune"))
    ran = run_in(folder, first)
    assert ran.returncode == 0, ran.stderr
    for name in ("ads50", "auto", "demo", "demo8"):
        shutil.copytree(folder / "runs" / "ads", folder / "runs" / name)
    return folder


def write_squad(table: Table, path: Path) -> None:
    """As the file of SQuAD v1.1, every question with a context of its own."""
    paragraphs = []
    for context, question, answers in zip(
        *(table.columns[name] for name in ("context", "question", "answers")), strict=True
    ):
        lists = json.loads(answers)
        gold = [{"text": t, "answer_start": s} for t, s in zip(lists["text"], lists["answer_start"], strict=True)]
        paragraphs.append(
            {"context": context, "qas": [{"id": str(len(paragraphs)), "question": question, "answers": gold}]}
        )
    path.write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")


def run_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment(folder), capture_output=True, text=True)


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONWARNINGS": "default"}


@contextmanager
def serving(folder: Path, command: str) -> Iterator[None]:
    """The server of a page, until its other commands are done."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL
    ) as server:
        try:
            eventually(lambda: answers() or server.poll() is not None)
            assert server.poll() is None, command
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0


def answers() -> bool:
    with suppress(OSError):
        urllib.request.urlopen("http://localhost:8080/v2/health/ready", timeout=PATIENCE).read()
        return True
    return False


def check(folder: Path, command: str) -> None:
    command = re.sub(r"^curl ", "curl --silent --show-error --fail-with-body ", command)
    ran = run_in(folder, command)
    assert ran.returncode == 0, (command, ran.stdout, ran.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_runs(page: Path, workplace: Path) -> None:
    wanted = [command for command in commands(page) if runnable(command)]
    own = [command for command in wanted if not command.startswith(("curl", "prunetime serve"))]
    for command in own:
        if command.startswith("prunetime prune") and re.search(rf"--out {SHARED}$", command):
            continue  # what `workplace` made
        if written := re.search(r"--out (\S+\.(?:onnx|xml|json))", command):  # by another page: it is not written over
            for file in (workplace / written[1], (workplace / written[1]).with_suffix(".bin")):
                file.unlink(missing_ok=True)
        check(workplace, command)
    servers = [command for command in wanted if command.startswith("prunetime serve")]
    asked = [command for command in wanted if command.startswith("curl")]
    assert servers or not asked
    for server in servers:
        with serving(workplace, server):
            for command in asked:
                check(workplace, command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_runs(page: Path, workplace: Path) -> None:
    found = blocks(page, "python")
    asks_a_server = any("Client(" in block for block in found)
    for block in (each for each in found if "Client(" not in each):
        ran = subprocess.run(
            [sys.executable, "-c", block], cwd=workplace, env=environment(workplace), capture_output=True, text=True
        )
        assert ran.returncode == 0, (block, ran.stderr)
    if asks_a_server:
        with serving(workplace, "prunetime serve ads=runs/ads/artifact"):
            for block in (each for each in found if "Client(" in each):
                ran = subprocess.run([sys.executable, "-c", block], cwd=workplace, capture_output=True, text=True)
                assert ran.returncode == 0, (block, ran.stderr)


def test_the_file_of_options_on_a_page_is_read(tmp_path: Path) -> None:
    (block,) = blocks(DOCS / "how-to" / "choose.md", "toml")
    (tmp_path / "run.toml").write_text(block, encoding="utf-8")
    words = ["--model", "my-bert", "--latency", "40%", "--out", "runs/ads", "--config", str(tmp_path / "run.toml")]
    read = main.commands["prune"].make_context("prune", words).params
    assert (read["data"], read["text"], read["seq_len"]) == ("train.tsv", ("query", "title"), 48)
    assert read["effort"] == EFFORTS["thorough"]


def test_the_experiment_on_a_page_is_read_and_its_report_has_the_fields_there(tmp_path: Path) -> None:
    page = DOCS / "how-to" / "serve.md"
    (block,), (report,) = blocks(page, "toml"), map(json.loads, blocks(page, "json"))
    (tmp_path / "experiment.toml").write_text(block, encoding="utf-8")
    (experiment,) = read_experiments(tmp_path / "experiment.toml")
    experiment.check(["ads", "small", "next"])
    made = json.loads(msgspec.json.encode(report_of(experiment, {})))
    assert list(report) == list(made)
    for part in ("arms", "comparisons"):
        for shown, expected in zip(report[part], made[part], strict=True):
            assert list(shown) == list(expected)
    first, second = report["arms"]
    assert [(arm["name"], arm["model"]) for arm in (first, second)] == [("dense", "ads"), ("pruned", "small")]
    assert all(arm["rate"] == round(arm["defects"] / arm["outcomes"], 4) for arm in (first, second))
    assert report["comparisons"][0]["difference"] == pytest.approx(second["rate"] - first["rate"], abs=1e-4)


def test_commands_that_are_run_elsewhere_are_few_and_there() -> None:
    every = [command for page in PAGES for command in commands(page)]
    for pattern in ELSEWHERE:
        assert any(re.search(pattern, command) for command in every), f"no page has {pattern}: take it out"
    assert sum(map(runnable, every)) > len(every) / 3


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *ROOT.glob("*.md"), COMMANDS]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)


def test_what_the_page_of_places_names_is_there() -> None:
    text = (DOCS / "explanation" / "where.md").read_text()
    pieces = re.split(r"`((?:engine|[a-z]+)/[\w./]*)`", text)
    for path, after in zip(pieces[1::2], pieces[2::2], strict=True):
        file = ROOT / path if path.startswith(("engine/", "src/")) else ROOT / "src" / "prunetime" / path
        assert file.exists(), path
        if name := re.match(r"\s+`([^`]+)`", after):
            words = re.findall(r"\w+", name[1])
            code = file.read_text()
            assert all(re.search(rf"\b{word}\b", code) for word in words), f"{path}: {name[1]}"


def test_the_site_builds(tmp_path: Path) -> None:
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8").replace("build/site", str(tmp_path / "site"))
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "zensical.toml").write_text(settings, encoding="utf-8")
    zensical = Path(sys.executable).parent / "zensical"
    ran = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    page = (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "The pruned model, ready to score" in page
    assert (tmp_path / "site" / "tutorial" / "index.html").exists()


def test_names_on_pages_are_of_modules_that_define_them() -> None:
    """A name that another module only imports leads to no documentation."""
    names = {
        name
        for page in [*PAGES, docstrings.PAGE]
        for name in re.findall(r"\bprunetime(?:\.[A-Za-z_]\w*)+", page.read_text())
    }
    assert len(names) > 20
    for name in names:
        found = pkgutil.resolve_name(name)
        module = name.rpartition(".")[0]
        assert inspect.ismodule(found) or found.__module__.startswith(module), f"{name} is of {found.__module__}"


def test_public_docstrings_are_in_google_style() -> None:
    assert docstrings.faults() == {}


def with_stages(page: str) -> str:
    """The page of the pipeline with its table of stages, between two markers."""
    rows = [f"| {s.name} | {s.summary} | {', '.join(f'`{name}`' for name in s.outputs)} |" for s in STAGES]
    begin, end = "<!-- stages: python tests/test_docs.py writes them -->", "<!-- end of stages -->"
    table = "\n".join(["| stage | what it does | what it leaves |", "|---|---|---|", *rows])
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{table}\n\n{end}", page, flags=re.DOTALL)


def test_the_table_of_stages_is_what_they_are() -> None:
    page = PIPELINE.read_text(encoding="utf-8")
    assert all(stage.summary in page for stage in STAGES)
    assert page == with_stages(page), "python tests/test_docs.py writes it again"


def command_reference() -> str:
    every = sorted(contexts(main, None, "prunetime"), key=lambda each: each.command_path)
    without = [each.command_path for each in every if not any("--json" in p.opts for p in each.command.params)]
    lines = [
        "# Command line",
        "",
        f"This page has the help of every command. All but {', '.join(f'`{path}`' for path in without)} take `--json`:",
        'the last line of standard output is then one JSON object, for an error `{"error": ..., "exit_code": ...}`.',
        "",
        "An option that is not given is read from the environment: `PRUNETIME_PRUNE_SEQ_LEN` is `--seq-len` of",
        "`prunetime prune`. `--config run.toml` reads those of `prune` from a file: `seq-len = 48` is a line of it.",
        "",
    ]
    for context in every:
        lines += [f"## {context.command_path}", "", "```text", context.get_help(), "```", ""]
    lines += [
        "Exit codes: 0; 1 a defect of prunetime (with a traceback, to be reported); 2 bad input, a command line that",
        "cannot be parsed, or a machine that cannot do it; 3 budget not met; 130 interrupted (run it again to resume).",
        "",
    ]
    return "\n".join(lines)


def contexts(command: click.Command, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """Of all commands below, as they are called: a group's settings are those of its commands, too."""
    context = click.Context(
        command, parent, name, max_content_width=100, terminal_width=100, **command.context_settings
    )
    if not isinstance(command, click.Group):
        yield context
        return
    for below, each in command.commands.items():
        yield from contexts(each, context, below)


def test_the_page_of_commands_is_what_they_say() -> None:
    assert COMMANDS.read_text(encoding="utf-8") == command_reference(), "python tests/test_docs.py writes it again"


def test_every_figure_of_the_benchmarks_is_that_of_a_result_file() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert benchmarks_page.PAGE.read_text(encoding="utf-8") == benchmarks_page.page(), "python bench/benchmarks_page.py"
    assert readme == benchmarks_page.with_results(readme), "python bench/benchmarks_page.py"


def test_the_page_of_errors_quotes_messages_that_are_there() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    rows = re.findall(r"(?m)^\| (`.*?) \|", (DOCS / "how-to" / "troubleshoot.md").read_text(encoding="utf-8"))
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 30
    assert not [part for message in messages for part in message.split(" ... ") if part not in said]


def test_the_times_of_efforts_are_what_they_are() -> None:
    text = (DOCS / "how-to" / "choose.md").read_text(encoding="utf-8")
    said = re.search(r"`quick` (\d+) minutes, `standard` (\d+), `thorough` (\d+)", text)
    assert said
    assert [Effort(float(minutes)) for minutes in said.groups()] == list(EFFORTS.values())


if __name__ == "__main__":
    COMMANDS.write_text(command_reference(), encoding="utf-8")
    PIPELINE.write_text(with_stages(PIPELINE.read_text(encoding="utf-8")), encoding="utf-8")
