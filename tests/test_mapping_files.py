"""What a YAML or JSON file says is read whole, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ibrobust.errors import IbrobustError
from ibrobust.mapping_files import read_mapping_file, read_value, read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "beta: 1\nepochs: 2\nbeta: 3",
        "grids: [{seed: [0], beta: [1], seed: [1]}]",
        "a: &x {b: {c: 1, c: 2}}\nd: *x",
        'beta: 1\n"beta": 2',
        "1: a\n0x1: b",
        "? [1]\n: {a: 1, a: 2}",
    ],
)
def test_a_key_that_is_given_twice_in_one_mapping_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="given twice"):
        read_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: {x: 1}\nb: {x: 2}",
        "[{x: 1}, {x: 2}]",
        "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}",
        "a: {b: &b {<<: &c {x: 1}, x: 2}}\nd: {<<: *b}",  # merged before it is made
        "x: 1\n'1': a\n1: b",
        "",
        "- 1e-05\n- 2001-02-03\n- yes",
    ],
)
def test_everything_else_is_what_pyyaml_makes_of_it(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E5", 200000.0), ("1.5e-3", 0.0015), ("nan", "nan"), ("inf", "inf"), ("1e999", "1e999"),
     ("'1e-3'", "1e-3"), ("3", 3), ("relu", "relu"), ("[1, a]", [1, "a"]), ("", None),
     (".5e3", 500.0), ("+2.e1", 20.0), ("1e3x", "1e3x"), ("1e", "1e"), ("0x1e3", 0x1E3)],
)  # fmt: skip
def test_a_single_value_may_be_a_number_with_an_exponent(text: str, value: object) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("[1e-3,-2E3, 3]", [0.001, -2000.0, 3]), ("{lr: 1e-3, at: [[1e2]]}", {"lr": 0.001, "at": [[100.0]]}),
     ("['1e-3', \"2e3\", 1e999, 1e3x]", ["1e-3", "2e3", "1e999", "1e3x"])],
)  # fmt: skip
def test_a_number_with_an_exponent_in_a_list_or_mapping_is_one(text: str, value: object) -> None:
    assert read_value(text) == value


def test_aliases_that_stand_for_very_many_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "x.yaml"
    for text in ("\n".join(lines), "a: &a [*a]", "a: &a {b: {c: *a}}"):
        path.write_text(text)
        with pytest.raises(
            IbrobustError, match=r"^The model card .* its aliases \(\*\) stand for more than 100,000 val"
        ):
            read_mapping_file(path, "model card")
    path.write_text("\n".join(lines[:3]))
    assert len(read_mapping_file(path, "model card")["a2"]) == 10


@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "{", "[" * 100_000, '{"a": "\udce9"}', "{a: 2001-13-45}"])
def test_what_cannot_be_read_is_one_sentence_that_names_the_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IbrobustError, match=rf"^The recipe .*{name}.* cannot be read: .*\.$"):
        read_mapping_file(path, "recipe")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_comes_back_as_it_was_written(tmp_path: Path, ascii_only: bool) -> None:
    content = {"text": "𝒵 🙂 é", "numbers": [1e-05, 1e300, -0.0, 3], "yes": "no"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only), encoding="utf-8")
    assert read_mapping_file(path, "model card") == content
