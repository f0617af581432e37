"""The COCO check: every way in which a dataset spoils a training run, found before it does."""

from converters.check.finding import find_problems
from converters.check.limits import Limits
from converters.check.page import write_page
from converters.check.report import Change, CheckReport, Problem
from converters.check.rules import RULES, Rule, plain_policy, repair_policy, rules_table

__all__ = [
    "RULES",
    "Change",
    "CheckReport",
    "Limits",
    "Problem",
    "Rule",
    "find_problems",
    "plain_policy",
    "repair_policy",
    "rules_table",
    "write_page",
]
