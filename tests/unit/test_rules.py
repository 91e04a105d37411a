"""Rules on files: conditions hold exactly when they should, mistakes are all told, rollouts only grow."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asynch.domain.chains import LONGEST_CHAIN, check_chain
from asynch.domain.rules import OPERATORS, Check, FileFacts, RetryStrategy, WrongCondition, compiled, in_rollout

ASCII = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=20)
TAGS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4)
GLOBS = st.text(st.sampled_from("ab*?/[]!"), min_size=1, max_size=8)
NAMES = st.text(st.sampled_from("abAB/.[]"), max_size=12)
FACTS = st.builds(
    FileFacts,
    name=NAMES,
    ext=st.sampled_from(["", "mp4", "PNG"]),
    content_type=st.sampled_from(["", "image/png", "video/mp4", "text/plain; charset=utf-8"]),
    size=st.integers(0, 2**40),
    tags=st.frozensets(st.sampled_from(["a", "b", "c", "d"])),
    scene=st.sampled_from(["", "s", "t"]),
    is_derived=st.booleans(),
)
TRIGGERS = st.fixed_dictionaries(
    {},
    optional={
        "mime": st.sampled_from(["image/*", ["VIDEO/*", "text/plain"], "*"]),
        "size_lt": st.integers(0, 2**40) | st.sampled_from(["10MiB", "1GiB"]),
        "size_gt": st.integers(0, 2**40) | st.just("1KiB"),
        "ext": st.sampled_from(["MP4", ["png", "jpg"]]),
        "tags_any": TAGS,
        "tags_all": TAGS,
        "scene": st.sampled_from(["s", ["s", "t"]]),
        "name": GLOBS | st.lists(GLOBS, min_size=1, max_size=3),
        "derived": st.booleans(),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def holds(trigger: dict[str, object], **facts: object) -> bool:
    return compiled(trigger).matches(FileFacts(**facts))  # type: ignore[arg-type]


@given(FACTS)
def test_an_empty_condition_matches_every_file_that_was_sent(facts: FileFacts) -> None:
    assert compiled({}).matches(facts) is not facts.is_derived


@given(TRIGGERS, FACTS)
def test_a_derived_file_meets_only_what_opted_in(trigger: dict[str, object], facts: FileFacts) -> None:
    if facts.is_derived and compiled(trigger).matches(facts):
        assert trigger["derived"] is True


@given(TRIGGERS, FACTS)
def test_a_file_matches_when_all_that_is_explained_holds(trigger: dict[str, object], facts: FileFacts) -> None:
    condition = compiled(trigger)

    assert condition.matches(facts) == all(check.holds for check in condition.explained(facts))


@given(TRIGGERS, FACTS)
def test_each_given_operator_is_explained_once_as_it_was_given(trigger: dict[str, object], facts: FileFacts) -> None:
    told = {check.operator: check.wanted for check in compiled(trigger).explained(facts) if check.operator != "derived"}

    assert told == {name: wanted for name, wanted in trigger.items() if name != "derived"}


@given(TRIGGERS, FACTS)
def test_a_condition_is_the_sum_of_its_operators(trigger: dict[str, object], facts: FileFacts) -> None:
    derived = trigger.pop("derived", False)
    alone = [compiled({name: wanted, "derived": derived}) for name, wanted in trigger.items()]

    whole = compiled({**trigger, "derived": derived})
    assert whole.matches(facts) == all(c.matches(facts) for c in [compiled({"derived": derived}), *alone])


@given(GLOBS, NAMES)
def test_a_name_is_a_glob_in_any_case(glob: str, name: str) -> None:
    assert holds({"name": glob.upper()}, name=name) == fnmatchcase(name.lower(), glob)


@given(st.lists(GLOBS, min_size=1, max_size=4), NAMES)
def test_one_glob_of_a_list_is_enough(globs: list[str], name: str) -> None:
    assert holds({"name": globs}, name=name) == any(holds({"name": glob}, name=name) for glob in globs)


@pytest.mark.parametrize(
    ("glob", "content_type", "met"),
    [
        ("image/*", "IMAGE/PNG", True),
        ("Image/Png", "image/png", True),
        ("text/plain", "text/plain; charset=utf-8", True),
        ("*utf-8*", "text/plain; charset=utf-8", False),
        ("image/*", "video/mp4", False),
        ("image", "image/png", False),
        (["image/*", "video/*"], "video/mp4", True),
    ],
)
def test_a_media_type_is_a_glob_without_case_and_parameters(glob: object, content_type: str, met: bool) -> None:
    assert holds({"mime": glob}, content_type=content_type) is met


@given(st.integers(0, 10**15 - 1), st.integers(0, 2**62))
def test_sizes_are_strictly_below_or_above(limit: int, size: int) -> None:
    assert holds({"size_lt": limit}, size=size) == (size < limit)
    assert holds({"size_gt": limit}, size=size) == (size > limit)


def test_sizes_are_read_as_the_configuration_reads_them() -> None:
    assert holds({"size_lt": "10MiB"}, size=10 * 2**20 - 1)
    assert not holds({"size_lt": "10MiB"}, size=10 * 2**20)


@given(TAGS, st.frozensets(st.sampled_from(["a", "b", "c", "d"])))
def test_tags_are_any_or_all_of_the_listed(wanted: list[str], tags: frozenset[str]) -> None:
    assert holds({"tags_any": wanted}, tags=tags) == bool(set(wanted) & tags)
    assert holds({"tags_all": wanted}, tags=tags) == (set(wanted) <= tags)


@pytest.mark.parametrize("ext", ["mp4", "MP4", ["mov", "Mp4"]])
def test_an_extension_is_met_in_any_case(ext: object) -> None:
    assert holds({"ext": ext}, ext="mp4")
    assert not holds({"ext": ext}, ext="png")


@given(ASCII)
def test_an_unknown_operator_is_refused_with_its_place(name: str) -> None:
    assume(name not in OPERATORS and name != "derived")

    with pytest.raises(WrongCondition) as refused:
        compiled({name: 1})

    assert [mistake.detail for mistake in refused.value.mistakes] == ["unknown operator"]
    assert refused.value.mistakes[0].pointer.startswith("#/")


def test_every_mistake_is_told_at_once() -> None:
    trigger = {
        "mime": 1,
        "sizes": 1,
        "tags_any": ["a", 2, ""],
        "ext": ".mp4",
        "size_lt": "ten",
        "derived": 1,
        "a/b~": 0,
    }

    with pytest.raises(WrongCondition) as refused:
        compiled(trigger)

    assert {mistake.pointer for mistake in refused.value.mistakes} == {
        "#/mime", "#/sizes", "#/tags_any/1", "#/tags_any/2", "#/ext", "#/size_lt", "#/derived", "#/a~1b~0",
    }  # fmt: skip


@pytest.mark.parametrize(
    "trigger",
    [
        {"mime": []}, {"mime": ""}, {"mime": None}, {"mime": {"a": 1}}, {"name": "x" * 257}, {"name": "a\0"},
        {"name": "\ud800"}, {"tags_any": "a"}, {"tags_all": []}, {"tags_all": ["x"] * 101}, {"scene": 1}, {"scene": ""},
        {"ext": ["a", ".b"]}, {"size_lt": -1}, {"size_lt": 1.5}, {"size_gt": True}, {"size_gt": None}, {"size_gt": "1MB"},
        {"size_lt": 2**63}, {"size_lt": float("inf")}, {"size_lt": float("nan")}, {"derived": 0}, {"derived": None},
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(trigger: dict[str, object]) -> None:
    with pytest.raises(WrongCondition):
        compiled(trigger)


@given(st.dictionaries(st.sampled_from([*OPERATORS, "derived"]), JSON))
def test_whatever_is_given_is_compiled_or_refused(trigger: dict[str, object]) -> None:
    try:
        condition = compiled(trigger)
    except WrongCondition:
        return
    condition.matches(FileFacts())


def test_a_glob_made_to_be_slow_is_not() -> None:
    condition = compiled({"name": "*a" * 127 + "b"})

    assert not condition.matches(FileFacts(name="a" * 255))


def test_an_explanation_tells_wanted_and_found() -> None:
    facts = FileFacts(name="Film.MP4", size=5, tags=frozenset({"b", "a"}), is_derived=True)

    assert compiled({"size_gt": "1KiB", "tags_all": ["a"], "name": "*.mp4"}).explained(facts) == [
        Check("size_gt", "1KiB", 5, holds=False),
        Check("tags_all", ["a"], ["a", "b"], holds=True),
        Check("name", "*.mp4", "Film.MP4", holds=True),
        Check("derived", wanted=False, found=True, holds=False),
    ]


@given(st.integers(1, 2**63 - 1), st.text(max_size=30))
def test_no_file_is_in_a_rollout_of_nothing_and_each_in_one_of_all(rule_id: int, identity: str) -> None:
    assert not in_rollout(rule_id, identity, 0)
    assert in_rollout(rule_id, identity, 100)


@given(st.integers(1, 2**63 - 1), st.text(max_size=30), st.integers(0, 100), st.integers(0, 100))
def test_a_raised_percentage_only_adds_files(rule_id: int, identity: str, one: int, other: int) -> None:
    if in_rollout(rule_id, identity, min(one, other)):
        assert in_rollout(rule_id, identity, max(one, other))


def test_a_rollout_takes_about_its_part_and_another_rule_another_part() -> None:
    first, second = ({n for n in range(10_000) if in_rollout(rule, str(n), 30)} for rule in (1, 2))

    assert 2800 < len(first) < 3200
    assert 700 < len(first & second) < 1100


def test_a_rollout_is_the_same_on_every_host_and_in_every_release() -> None:
    assert [n for n in range(20) if in_rollout(7, str(n), 20)] == [1, 5, 6, 8, 9, 18, 19]


@given(st.integers(1, 20), st.integers(1, 86_400))
def test_a_plain_strategy_pauses_equally(times: int, pause_s: int) -> None:
    assert RetryStrategy.parse(f"{times}x@{pause_s}s").pauses_s() == (pause_s,) * times


@given(st.integers(1, 20), st.integers(1, 86_400), st.integers(1, 86_400))
def test_a_doubling_strategy_doubles_up_to_its_cap(times: int, first_s: int, longest_s: int) -> None:
    assume(first_s <= longest_s)

    pauses = RetryStrategy.parse(f"{times}x@{first_s}s..{longest_s}s").pauses_s()

    assert pauses == tuple(min(first_s * 2**n, longest_s) for n in range(times))


def test_strategies_are_read_as_the_contract_writes_them() -> None:
    assert RetryStrategy.parse("3x@5min").pauses_s() == (300, 300, 300)
    assert RetryStrategy.parse("5x@10s..10min").pauses_s() == (10, 20, 40, 80, 160)
    assert RetryStrategy.parse("1x@24h").pauses_s() == (86_400,)
    assert RetryStrategy.parse("").pauses_s() == ()


@pytest.mark.parametrize(
    "text",
    [
        "3", "x@5min", "0x@5s", "21x@5s", "3x@0s", "3x@25h", "3x@86401s", "3x@10s..5s", "3x@1s..25h", "3x@5", "3x@5d",
        "-3x@5s", "3x@5min ", "3x@5min\n", "3 x@5s", "3X@5s", "3x@1.5s", "3x@5s..", "٣x@5s", "9" * 5000 + "x@5s",
    ],
)  # fmt: skip
def test_a_strategy_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        RetryStrategy.parse(text)


@given(
    st.text(max_size=12) | st.from_regex(r"[0-9]{1,3}x@[0-9]{1,6}(s|min|h)(\.\.[0-9]{1,6}(s|min|h))?", fullmatch=True)
)
def test_whatever_is_read_keeps_the_bounds(text: str) -> None:
    try:
        pauses = RetryStrategy.parse(text).pauses_s()
    except ValueError:
        return
    assert len(pauses) <= 20
    assert all(1 <= pause <= 86_400 for pause in pauses)
    assert list(pauses) == sorted(pauses)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=40))
def test_chains_that_are_let_in_have_no_circle_and_an_end(asked: list[tuple[int, int]]) -> None:
    parents: dict[int, int] = {}
    for rule, after in asked:
        try:
            check_chain(parents, rule, after)
        except ValueError:
            continue
        parents[rule] = after
    for rule in parents:
        chain = [rule]
        while chain[-1] in parents:
            chain.append(parents[chain[-1]])
            assert len(chain) <= LONGEST_CHAIN


def test_a_chain_may_be_as_long_as_it_may() -> None:
    parents = {n: n - 1 for n in range(2, LONGEST_CHAIN)}

    check_chain(parents, None, LONGEST_CHAIN - 1)
    check_chain(parents, 1, 100)
    with pytest.raises(ValueError, match="more than 8"):
        check_chain({**parents, 100: 101}, 1, 100)
    with pytest.raises(ValueError, match="after itself"):
        check_chain(parents, 1, LONGEST_CHAIN - 1)
