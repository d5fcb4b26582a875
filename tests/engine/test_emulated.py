"""Other CPUs, emulated by QEMU: they run the kernels that they have, with the bits that those kernels have here."""

import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import fields_of, random_config, random_ragged, random_spec, random_weights
from reference import reference_logits

import prunetime
from prunetime.core.arch import ArchSpec
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.inference import engine as runtime
from prunetime.inference.engine import Engine

pytestmark = pytest.mark.system

PRECISIONS = ("fp32", "bf16", "int8")
DTYPES = {int: np.int32, bool: np.int32, float: np.float32}
DRIVER = Path(__file__).with_name("run_encoder.cpp")
ENGINE = DRIVER.parents[2] / "engine"

ANSWER = """
import pickle, sys
from prunetime.inference.engine import Engine, supported_isas
config, spec, weights, batch, plans = pickle.load(sys.stdin.buffer)
def logits(isa, plan):
    return Engine(config, weights, 2, isa, spec=spec, plan=plan).logits(batch)
isas = supported_isas()
answers = {(isa, name): logits(isa, plan) for isa in isas for name, plan in plans.items()}
chosen = Engine(config, weights).isa
sys.stdout.buffer.write(pickle.dumps((isas, chosen, answers)))
"""


@pytest.fixture(scope="module")
def case():
    """(config, spec, weights, batch) of an uneven encoder with blocks, pruned rows and dropped tokens."""
    rng = np.random.default_rng(2)
    config = random_config(rng, layers=3, hidden=96, heads=4, head_dim=24, ffn=160, positions=70, separator=3)
    layers = random_spec(config, rng, blocks=True, tokens=True).layers
    assert any(layer.tokens < 1 for layer in layers)
    assert any(layer.blocks for layer in layers)
    eighths = ArchSpec(tuple(replace(layer, tokens=math.ceil(8 * layer.tokens) / 8) for layer in layers))
    return config, eighths, random_weights(config, eighths, rng), random_ragged(config, rng, [1, 70, 9, 33, 64, 2])


@pytest.mark.parametrize(("cpu", "isas"), [("Nehalem", ["portable"]), ("Haswell", ["portable", "avx2"])])
def test_an_older_cpu_runs_its_own_kernels_with_the_same_bits(case, cpu, isas):
    config, spec, weights, batch = case
    plans = {name: PrecisionPlan(MatrixPlan(name)) for name in PRECISIONS}
    ran = subprocess.run(
        ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", ANSWER],
        input=pickle.dumps((*case, plans)),
        # numpy's OpenBLAS takes an emulated Nehalem for a Haswell on some hosts.
        env={**os.environ, "PYTHONPATH": str(Path(prunetime.__file__).parents[1]), "OPENBLAS_CORETYPE": cpu},
        capture_output=True,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    supported, chosen, answers = pickle.loads(ran.stdout)
    assert supported == isas
    assert chosen == isas[-1]
    for (isa, name), logits in answers.items():
        here = Engine(config, weights, isa=isa, spec=spec, plan=plans[name]).logits(batch)
        assert np.array_equal(logits, here), f"{isa} {name}"


@pytest.fixture(scope="module")
def aarch64_driver(tmp_path_factory):
    """The program of `run_encoder.cpp` for aarch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    library, driver, compiler = folder / "libengine.a", folder / "run_encoder", "aarch64-linux-gnu-g++"
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    for command in (
        ["cmake", "-S", ENGINE, "-B", folder, *target],
        ["cmake", "--build", folder, "--target", "engine", "--parallel", str(os.cpu_count())],
        [compiler, "-std=c++20", "-static", f"-I{ENGINE}", DRIVER, library, "-o", driver],
    ):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        built = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert built.returncode == 0, built.stdout + built.stderr
    return driver


@pytest.mark.parametrize("precision", PRECISIONS)
def test_aarch64_has_the_bits_of_the_portable_kernels(case, aarch64_driver, precision):
    config, spec, weights, batch = case
    plan = PrecisionPlan(MatrixPlan(precision))
    fields = fields_of(runtime.forward_config(config))
    settings = {name: value for name, value in fields.items() if not isinstance(value, (str, list))}
    precisions = runtime.forward_plan(config, spec, plan).precision
    arrays = {
        **{f"run.{name}": np.array([value], DTYPES[type(value)]) for name, value in settings.items()},
        "run.tokens": np.float32([layer.tokens for layer in spec.layers]),
        "run.ids": batch.ids,
        "run.types": batch.types,
        "run.offsets": batch.offsets,
        **{f"run.precision.{name}": np.int32([PRECISIONS.index(of)]) for name, of in precisions.items()},
        **weights,
    }
    given = b"".join(
        f"{name} {array.dtype} {array.ndim} {' '.join(map(str, array.shape))}\n".encode() + array.tobytes() + b"\n"
        for name, array in arrays.items()
    )
    ran = subprocess.run(["qemu-aarch64", aarch64_driver], input=given, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stderr.decode() == "portable"
    logits = np.frombuffer(ran.stdout, np.float32).reshape(len(batch), config.outputs)
    assert np.array_equal(logits, Engine(config, weights, isa="portable", spec=spec, plan=plan).logits(batch))
    if precision == "fp32":
        np.testing.assert_allclose(logits, reference_logits(config, weights, batch, spec), atol=1e-4)
