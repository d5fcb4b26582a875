"""The stages of a run, in the order in which they are done."""

from prunetime.pipeline.context import Stage
from prunetime.pipeline.stages.front import measure_front
from prunetime.pipeline.stages.learn import learn_last, learn_rows, tune_rows
from prunetime.pipeline.stages.measure import measure_tail, time_chosen
from prunetime.pipeline.stages.profile import choose_plan, record_profile
from prunetime.pipeline.stages.search import pick_structure, propose, search
from prunetime.pipeline.stages.teacher import importance, train_elastic, train_teacher
from prunetime.pipeline.stages.tune import tune
from prunetime.pipeline.stages.verify import measure_candidate

STAGES: tuple[Stage, ...] = (
    choose_plan,
    record_profile,
    measure_tail,
    train_teacher,
    importance,
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
)
"""Some are of the search, some of learned masks; the last four are done again in every attempt at the budget."""
