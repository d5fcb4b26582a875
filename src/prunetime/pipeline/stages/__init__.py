"""The stages of a run, in the order in which they are done."""

from prunetime.pipeline.context import Stage
from prunetime.pipeline.stages.alternatives import measure_alternatives
from prunetime.pipeline.stages.baselines import compare_baselines
from prunetime.pipeline.stages.beside import tune_beside
from prunetime.pipeline.stages.front import measure_front
from prunetime.pipeline.stages.learn import learn_last, learn_rows, tune_rows
from prunetime.pipeline.stages.libraries import quantise_with_library
from prunetime.pipeline.stages.lossless import take_dense, try_precisions
from prunetime.pipeline.stages.measure import measure_tail, time_chosen, time_reference
from prunetime.pipeline.stages.profile import choose_plan, record_profile
from prunetime.pipeline.stages.run_plan import plan_amounts
from prunetime.pipeline.stages.search import pick_structure, propose, search
from prunetime.pipeline.stages.structures import tune_alternative
from prunetime.pipeline.stages.teacher import importance, prepare_repair, train_elastic, train_teacher
from prunetime.pipeline.stages.tune import tune
from prunetime.pipeline.stages.verify import measure_candidate

STAGES: tuple[Stage, ...] = (
    choose_plan,
    record_profile,
    time_reference,
    measure_tail,
    plan_amounts,
    train_teacher,
    compare_baselines,
    try_precisions,
    take_dense,
    importance,
    prepare_repair,
    train_elastic,
    search,
    propose,
    pick_structure,
    learn_rows,
    tune_rows,
    learn_last,
    time_chosen,
    measure_front,
    tune,
    measure_candidate,
    tune_alternative,
    tune_beside,
    quantise_with_library,
    measure_alternatives,
)
"""Some are of the search, some of learned masks; those from the gate to the verification are done again in every
attempt at the budget."""
