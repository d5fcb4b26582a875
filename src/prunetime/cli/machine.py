"""The command about this machine."""

from __future__ import annotations

from prunetime.cli.main import emit, main
from prunetime.cli.options import json_option


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine offers, and whether timings on it can be trusted now."""
    from prunetime.latency.doctor import checkup

    found = checkup()
    machine = found.machine
    others = ", ".join(isa for isa in found.isas if isa != found.isa)
    lines = [
        f"{'cpu':16}{machine.cpu}, {machine.cores} cores for this process, {machine.system}",
        f"{'instructions':16}{' '.join(machine.flags)}",
        f"{'engine':16}{found.isa} (PRUNETIME_ISA may say one of: {others})",
        f"{'memory':16}{found.memory_bytes / (1 << 30):.1f} GiB",
        f"{'reference':16}{found.reference_us:.1f} us, p99 {found.unsteady:.2f} times that; "
        f"median known within {found.interval / 2:.1%}",
        f"{'taken away':16}{found.stolen:.1%} by the host, {found.others:.1%} of a core by other processes",
    ]
    if found.doubts:
        lines += [f"{'timings':16}not to be trusted now:", *(f"{'':16}- {doubt}" for doubt in found.doubts)]
    else:
        lines.append(f"{'timings':16}can be trusted")
    emit(found.to_json(), as_json, "\n".join(lines))
