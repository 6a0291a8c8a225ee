"""Nothing may stand in two places."""

import pytest

from core.errors import UserError
from datasets.leakage import check_disjoint


def test_disjoint_members_pass_and_an_id_may_repeat_in_its_own_place():
    check_disjoint(
        {
            ("a", "train"): {"cell": ["1", "2"], "donor": ["d1", "d1"]},
            ("a", "test"): {"cell": ["3"], "donor": ["d2"]},
            ("b", "train"): {"cell": ["4"]},
        },
        "study",
    )


def test_the_same_id_at_two_levels_is_no_overlap():
    check_disjoint({("a", "train"): {"cell": ["1"]}, ("b", "train"): {"donor": ["1"]}}, "study")


def test_an_overlap_names_level_id_both_places_and_how_many_more():
    members = {
        ("north", "train"): {"cell": ["1", "2", "3"], "donor": ["d1"]},
        ("north", "val"): {"cell": ["4"], "donor": ["d2"]},
        ("south", "test"): {"cell": ["5", "3", "2"], "donor": ["d3"]},
    }
    with pytest.raises(UserError) as caught:
        check_disjoint(members, "data/study")
    message = str(caught.value)
    assert message.startswith("data/study: cell '2' is in both north/train and south/test, and 1 more; ")
    assert "\n" not in message


def test_a_single_shared_donor_is_found_behind_distinct_cells():
    members = {("a", "train"): {"cell": ["1"], "donor": ["d"]}, ("a", "val"): {"cell": ["2"], "donor": ["d"]}}
    with pytest.raises(UserError, match=r"donor 'd' is in both a/train and a/val; "):
        check_disjoint(members, "study")
