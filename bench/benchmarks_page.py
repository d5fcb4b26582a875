"""Writes docs/benchmarks.md, and the table of results in README.md, from bench/results/*.json.

    python bench/benchmarks_page.py

The prose is that of bench/benchmarks.md.in, whose fields are filled here. tests/test_docs.py fails where a page is not
what this writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
TEMPLATE = ROOT / "bench" / "benchmarks.md.in"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- results: bench/benchmarks_page.py writes them -->", "<!-- end of results -->"
ON_GITHUB = "https://github.com/prunetime/prunetime/blob/main/bench/results"

PRECISIONS = ("fp32", "bf16", "int8")
BUDGETS = ("0.25", "0.40", "0.60")
SHAPES = {"mini": "mini", "minilm": "MiniLM-L6", "base": "BERT-base"}
DATA_SETS = {"home_depot": "Home Depot", "qqp": "QQP", "mnli": "MNLI", "squad": "SQuAD"}
METHODS = {
    "ours": "ours",
    "tpe": "TPE",
    "evolution": "evolution",
    "nsga2": "NSGA-II",
    "random": "random",
    "uniform": "uniform",
    "no critic": "ours, no surrogate model",
    "no policy": "ours, no policy",
    "no learning": "ours, a policy that does not learn",
    "no crossover": "ours, no crossover",
}
SERVERS = {
    "prunetime": "`prunetime serve`",
    "cross encoder": "CrossEncoder (sentence-transformers, ONNX) behind FastAPI",
    "infinity": "Infinity 0.0.78 (optimum)",
}

Row = Mapping[str, Any]


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(with_results(README.read_text(encoding="utf-8")), encoding="utf-8")


def page() -> str:
    """The text of docs/benchmarks.md."""
    sources = {
        f"{path.stem}_source": source(path.stem) for path in RESULTS.glob("*.json") if "commit" in read(path.stem)
    }
    parts = (
        demo,
        alternatives,
        engines,
        prediction,
        search,
        search_methods,
        search_cost,
        masks,
        repair,
        quantised_tuning,
        training,
        serving,
        faults,
        experiments,
        ranking,
    )
    figures = {name: value for part in parts for name, value in part().items()}
    return TEMPLATE.read_text(encoding="utf-8").format(**sources, **figures)


def with_results(readme: str) -> str:
    """The text of README.md with the table of the demo between its two markers."""
    block = "\n\n".join([BEGIN, demo()["demo"], END])
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, readme, flags=re.DOTALL)


@cache
def read(name: str) -> Any:
    """The content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def source(name: str, data: Row | None = None, commits: Iterable[str] = ()) -> str:
    """The line under a table: file, machine, commit and command."""
    found = data or read(name)
    command = re.sub(r"/(tmp|work)/(\S*/)?", "", found["command"])  # folders of that machine say nothing here
    if command.startswith("bench/"):
        command = f"python {command}"
    at = ", ".join(sorted({commit[:7] for commit in commits or [found["commit"]]}))
    return f"*[{name}.json]({ON_GITHUB}/{name}.json): {machine(found['machine'])}, commit {at}, `{command}`*"


def machine(data: Row) -> str:
    """A machine by its processor and instruction sets."""
    flags = data["flags"]
    sets = "AVX-512, AVX-VNNI" if "avx_vnni" in flags else "AVX-512" if "avx512f" in flags else "AVX2"
    return f"{data['cpu']} ({sets})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: text in the first column, numbers in the others."""
    ruler = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


def interval(value: float, ends: Sequence[float], digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f} ({ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f})"


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def demo() -> dict[str, str]:
    data = read("demo")
    dense = data["models"][0]
    rows = [
        (
            f"**{model['name']}, to {percent(model['budget'])}**" if model["budget"] else model["name"],
            f"{model['p50_us'] / 1000:.2f} ms",
            f"{dense['p50_us'] / model['p50_us']:.1f}x",
            interval(model["value"], model["ci95"], 3),
            f"{model['parameters'] / 1e6:.1f} M, {model['bytes'] / 1e6:.0f} MB" if model["budget"] else "",
        )
        for model in data["models"]
    ]
    header = (data["model"], "latency", "speed", f"{data['metric'].upper()} (95 % interval)", "parameters, file")
    seconds = [(name, f"{taken:.0f}") for name, taken in data["seconds"].items()]
    return {
        "demo": table(header, rows),
        "demo_model": data["model"],
        "demo_tokens": str(data["tokens"]),
        "demo_rows": f"{data['rows']:,}",
        "demo_seconds": table(("stage", "seconds"), seconds),
        "demo_minutes": f"{sum(data['seconds'].values()) / 60:.0f}",
    }


def alternatives() -> dict[str, str]:
    """The pruned model beside the best that is inside the same budget without pruning, cell by cell."""
    data, rows = read("alternatives"), []
    for name, cell in data["cells"].items():
        dense = f"{cell['metric']} {cell['dense']['value']:.4f}"
        if cell["stands"] == "lossless":
            rows.append([name, dense, f"{cell['answer']['value']:.4f}", "", "", "lossless", "dense, faster precisions"])
            continue
        lines = {line["name"]: line["quality"]["value"] for line in cell["lines"]}
        pruned = f"{lines['pruned']:.4f}"
        if cell["stands"] == "alone":
            rows.append([name, dense, pruned, "", "", "alone", cell["name"]])
            continue
        low, high = cell["ci95"]
        beside = f"{cell['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append(
            [name, dense, pruned, f"{cell['next']} {lines[cell['next']]:.4f}", beside, cell["stands"], cell["name"]]
        )
    header = ("", "dense, fp32", "pruned", "best other", "pruned less that", "stands", "answer of the run")
    last = list(data["cells"].values())[-1]
    commits = {cell["commit"] for cell in data["cells"].values()}
    return {
        "alternatives": table(header, rows),
        "alternatives_effort": data["effort"],
        "alternatives_source": source("alternatives", last, commits),
    }


def engines() -> dict[str, str]:
    lines = []
    for found in read("engine")["machines"]:
        names = sorted(found["cells"], key=lambda name: (list(SHAPES).index(name.split()[0]), _size(name)))
        cells = {name: found["cells"][name]["rows"] for name in names}
        ours = ("ours", *PRECISIONS, "int8 over floor", "int8, 20 % of blocks", "int8, half")
        others = (
            "others",
            "OpenVINO fp32",
            "ONNX Runtime fp32",
            "OpenVINO int8",
            "ONNX Runtime int8",
            "CTranslate2 int8",
        )
        lines += [f"### {machine(found['machine'])}", table(ours, [_ours(*cell) for cell in cells.items()])]
        lines += [table(others, [_others(*cell) for cell in cells.items()])]
        lines += [source("engine", found, [cell["commit"] for cell in found["cells"].values()])]
    return {"engines": "\n\n".join(lines)}


def _size(name: str) -> list[int]:
    return [int(number) for number in name.split()[1].split("x")]


def _ours(name: str, rows: Sequence[Row]) -> list[str]:
    shape, size, _ = name.split()
    timed = _timed(rows)
    int8 = timed[shape, "prunetime", "int8"]
    dense = [_ms(timed.get((shape, "prunetime", precision))) for precision in PRECISIONS]
    kept = [_ms(timed.get((f"{shape}@{part}", "prunetime", "int8"))) for part in ("blocks=0.2", "heads=0.5,ffn=0.5")]
    return [f"{SHAPES[shape]} {size}", *dense, f"{int8['p50_us'] / int8['floor_us']:.2f}", *kept]


def _others(name: str, rows: Sequence[Row]) -> list[str]:
    shape, size, _ = name.split()
    timed = _timed(rows)
    fp32 = [_ms(timed.get((shape, engine, "fp32"))) for engine in ("openvino", "onnxruntime")]
    int8 = [_ms(timed.get((shape, engine, "int8"))) for engine in ("openvino", "onnxruntime", "ctranslate2")]
    return [f"{SHAPES[shape]} {size}", *fp32, *int8]


def _timed(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["model"], row["engine"], row["precision"]): row for row in rows}


def _ms(row: Row | None) -> str:
    if row is None:
        return ""
    if row["p50_us"] is None:
        return "refused"
    ms = row["p50_us"] / 1000
    return (f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}") + (r"\*" if row["noisy"] else "")


def prediction() -> dict[str, str]:
    rows = []
    for name, title in (("random", "random structures"), ("finalists", "what searches end in")):
        error = read("predictor")["error"][name]
        off = [f"{error[key]:.1f} %" for key in ("mape", "median", "worst")]
        rows.append([title, str(error["specs"]), *off, percent(error["within_5"]), f"{error['spearman']:.3f}"])
    header = ("", "structures", "mean error", "median", "worst", "within 5 %", "Spearman")
    return {"prediction": table(header, rows)}


def search() -> dict[str, str]:
    data = read("home_depot")
    found = {(row["model"], row["budget"], row["method"]): row for row in data["quality"]}
    rows = []
    for model, title in (("l6", "MiniLM-L6"), ("l4", "MiniLM-L4")):
        rows.append([f"{title}, dense", "100 %", _auc(found[model, 1.0, "dense"]), "", "", ""])
        for budget in (0.6, 0.4, 0.25, 0.1):
            searched, uniform = found[model, budget, "searched"], found[model, budget, "uniform"]
            over = searched["all_over_uniform"]
            aucs = [_auc(row) for row in (searched, uniform, found.get((model, budget, "depth")))]
            gain = interval(over["value"], over["ci95"], 4, "+")
            rows.append([f"{title}, {percent(budget)}", percent(searched["measured_share"]), *aucs, gain])
    header = ("budget", "latency", "searched", "uniform", "depth", "searched less uniform (95 % interval)")
    low, high = data["trust"]["ci95"]
    trust = {"trust": f"{data['trust']['within']:.2f}", "trust_ci95": f"{low:.2f} to {high:.2f}"}
    return {"search": table(header, rows), **trust}


def _auc(row: Row | None) -> str:
    return f"{row['all']['value']:.4f}" if row else ""


def search_methods() -> dict[str, str]:
    recorded, winners = read("search_surrogate")["result"], read("search_winners")["result"]
    rows = []
    for method, title in METHODS.items():
        best = [f"{recorded[budget]['methods'][method]['mean_best']:.4f}" for budget in BUDGETS]
        real = [f"{winners[budget][method]['real']:.4f}" if method in winners[budget] else "" for budget in BUDGETS]
        rows.append([title, *best, *real])
    shares = [percent(float(budget)) for budget in BUDGETS]
    live = [
        [METHODS[method], interval(found["mean_best"], found["ci95"], 4), str(found["evaluations_to_reference"] or "")]
        for method, found in read("search_live")["result"]["0.25"]["methods"].items()
    ]
    picked = read("search_pick")["result"]
    off = [[percent(float(budget)), f"{picked[budget]['mean_difference']:+.4f}"] for budget in BUDGETS]
    return {
        "methods": table(("", *shares, *(f"real, {share}" for share in shares)), rows),
        "live": table(("", "best (95 % interval)", "evaluations to reach plain evolution's best"), live),
        "picked": table(("budget of the search", "difference"), off),
        "surrogate_genomes": f"{recorded['surrogate']['genomes']:,}",
        "surrogate_spearman": f"{recorded['surrogate']['spearman']:.3f}",
    }


def search_cost() -> dict[str, str]:
    counted, whole = read("search_rate")["genomes_an_hour"], read("search_rate")["search"]
    of_search = counted["result"]["search"]
    rows = [("300 of a search, in one process", of_search["here"])]
    rows += [(f"300 of a search, {name} of Ray", of_search[name]) for name in ("1 worker", "2 workers", "4 workers")]
    rows += [("drawn at random, which share no layers", counted["result"]["random"]["here"])]
    rows += [(f"a whole search of {whole['result']['evaluations']:,}", whole["result"]["an_hour"])]
    proposals = [
        [name, *(f"{each[who][figure]:.1f}" for who in ("ours", "tpe") for figure in ("mean_ms", "p90_ms"))]
        for name, each in read("sampler")["proposals"].items()
    ]
    header = ("parameters", "ours, mean", "ours, 90th percentile", "TPE, mean", "TPE, 90th percentile")
    return {
        "rate": table(("structures", "an hour"), [(title, f"{value:,}") for title, value in rows]),
        "rate_rows": f"{counted['rows']:,}",
        "proposals": table(header, proposals),
        "search_rate_source": source("search_rate", counted),
        "search_whole_source": source("search_rate", whole),
    }


def masks() -> dict[str, str]:
    found = {(row["data"], row["levels"], row["variant"]): row for row in read("multilevel")["quality"]}
    variants = [(levels, "as it is") for levels in ("rows", "blocks", "both")] + [("both", "tuned"), ("both", "longer")]
    rows = []
    for data, title in DATA_SETS.items():
        dense = found[data, "dense", "as it is"]
        for metric in (metric for metric in ("auc", "accuracy", "f1") if metric in dense):
            learned = [found.get((data, *variant)) for variant in variants]
            cells = [f"{r[metric]['value']:.3f} at {percent(r['measured_share'])}" if r else "" for r in learned]
            name = metric if metric == "accuracy" else metric.upper()
            rows.append([f"{title}, {name}", f"{dense[metric]['value']:.3f}", *cells])
    speed = read("multilevel_speed")
    times = []
    for shape, dense_us in speed["dense_us"].items():
        pairs = [f"{dense_us[p] / 1000:.1f} to {speed['sparse_us'][shape][p] / 1000:.1f}" for p in PRECISIONS]
        times.append([shape, *pairs, *(f"{speed['same_precision_speedup'][shape][p]:.1f}x" for p in PRECISIONS)])
    return {
        "masks": table(("", "dense", "heads and neurons", "blocks", "both", "both, tuned", "both, longer"), rows),
        "masks_speed": table(("batch x tokens", *PRECISIONS, *(f"speed, {p}" for p in PRECISIONS)), times),
    }


def quantised_tuning() -> dict[str, str]:
    """Tuning without and with fake quantisation, data set by data set."""
    found, rows = read("quantised_tuning"), []
    for row in found["results"]:
        digits = [f"{row[name]:.4f}" for name in ("fp32", "int8")]
        losses = [f"{row['loss']:+.4f}", f"{row['divergence_loss']:+.5f}", percent(row["squared_difference"], 3)]
        way = "with" if row["share"] else "without"
        what = f"{row['data']}, {row['metric']}, {way}"
        rows.append([what, str(row["seeds"]), *digits, *losses, f"{row['cpu_seconds_per_step']:.2f} s"])
    header = ("", "seeds", "fp32", "int8", "loss", "loss, divergence", "squared difference", "CPU time of a step")
    noise = [
        [name, percent(shares["int8"], 3), percent(shares["weights"], 3)] for name, shares in found["noise"].items()
    ]
    return {
        "quantised_tuning": table(header, rows),
        "quantised_noise": table(("teacher", "int8", "weights alone"), noise),
    }


def training() -> dict[str, str]:
    data = read("training_speed")
    rows = [
        (name, *(f"{found[f'{build}_ms_a_row']:.1f} ms" for build in ("other", "this")), f"{found['speed']:.2f}x")
        for name, found in data["trainings"].items()
    ]
    header = ("a row of", "before", "now", "speed")
    return {"training": table(header, rows), "training_precision": data["precision"]}


def serving() -> dict[str, str]:
    rows = []
    for who, title in SERVERS.items():
        for model in ("dense", "pruned"):
            found = read("serve_rivals")["medians"][f"{who} {model}"]
            rates = [f"{found[f'per_s_within_{limit}_ms']:.0f}" for limit in (10, 50)]
            rows.append([f"{title}, {model}", *rates, f"{found['p50_ms']:.1f} ms"])
    cost = read("serve")
    builds = [
        [
            title,
            *(f"{b[f'{which}_per_s']:.0f}" for which in ("this", "other")),
            interval(b["ratio"], b["ratio_90_percent"], 2),
        ]
        for title, b in zip(("MiniLM-L6, int8", "two layers"), read("serve_builds")["models"], strict=True)
    ]
    return {
        "servers": table(("server, model", "within 10 ms", "within 50 ms", "median alone"), rows),
        "http_us": f"{cost['overhead_p50_us']:.0f}",
        "http_share": percent(cost["throughput_share"]),
        "refused": f"{sum(cost['refused'].values()):,}",
        "rss": percent(cost["rss_growth"], 2),
        "builds": table(("model", "this build", "earlier build", "ratio (90 % interval)"), builds),
        **{name: f"{cost[name]:,}" for name in ("answered", "checked", "wrong", "lost")},
    }


def faults() -> dict[str, str]:
    data = read("serve_faults")
    pauses = data["recovery_s_by_pause_s"]
    return {
        "pauses": ", ".join(pauses),
        "recovery": f"{max(pauses.values()):.2g}",
        "burst": str(data["answered"]),
        "ideal": str(data["ideal"]),
        "worst": str(len(data["worst_requests"])),
        "health_ms": f"{data['health_p99_ms']:.0f}",
        "pair_ms": f"{data['pair_p99_ms']:.0f}",
    }


def experiments() -> dict[str, str]:
    data = read("experiments")
    rows = []
    for users, found in data["users"].items():
        stops = [percent(found["false_stops"][name], 1) for name in ("planned", "open")]
        keys = [found["keys_to_find_it"][name]["80% power"] for name in ("planned", "open")]
        rows.append([users, *stops, *(f"{k[part]:.2f}" for k in keys for part in ("mean_to_fixed", "most_to_fixed"))])
    header = [f"{what}, {name}" for name in ("planned", "open") for what in ("keys on average", "keys at most")]
    return {
        "experiments": table(("users", "false stops, planned", "false stops, open", *header), rows),
        "experiment_count": f"{data['experiments']:,}",
    }


def ranking() -> dict[str, str]:
    data, rows = read("ranking"), []
    for name, title in (("wikiqa", "WikiQA"), ("home_depot", "Home Depot")):
        for part, words in {"choose": "valid", "dev": "dev"}.items():
            of_part = data["sets"][name][part]
            values = [f"{row['ndcg@10']:.4f}" for row in (of_part["teacher"], *of_part["arms"].values())]
            less = [interval(one["value"], one["ci95"], 4, "+") for one in of_part["difference"].values()]
            rows.append([f"{title}, {words}", f"{of_part['difference']['ndcg@10']['queries']:,}", *values, *less])
    header = ("queries", "teacher", "without", "with the loss", "difference", "difference of MRR")
    arms = [of_set["dev"]["arms"] for of_set in data["sets"].values()]
    slower = max(each["with"]["seconds"] / each["without"]["seconds"] for each in arms)
    return {"ranking": table(("rows", *header), rows), "ranking_slower": f"{slower:.1f}"}


def repair() -> dict[str, str]:
    """The metric and the agreement of a structure that begins as it is, and repaired, by the rows of its tuning."""
    rows = []
    for name, of_run in read("repair")["runs"].items():
        tuned = dict.fromkeys(int(key.rpartition(", ")[2]) for key in of_run if ", " in key)
        for count in tuned:
            each = [of_run[f"{beginning}, {count}"] for beginning in ("as it is", "repaired")]
            metrics, agreements = ([f"{one[key]:.4f}" for one in each] for key in ("metric", "agreement"))
            rows.append([f"{name}, {of_run['name']} {of_run['dense']:.4f}", f"{count:,}", *metrics, *agreements])
    header = ("of latency in fp32, dense", "rows tuned on", "as it is", "repaired", "agreement as it is", "repaired")
    return {"repair": table(header, rows)}


if __name__ == "__main__":
    main()
