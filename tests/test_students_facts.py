"""What students cost and how far they hear, and the command that lists it."""

import json

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import students as command
from pipeline.cli.main import tkd
from pipeline.extract.features import LogMelConfig
from students import STUDENTS, build_student, count_macs, student_facts

T = 98  # frames, one second at a 10 ms hop, 30 ms window


def by_hand(name: str) -> int:
    """Multiply-accumulates, layer after layer: outputs times what each is a sum of."""
    if name == "tc_resnet8":  # channels 40, 16, 24, 32, 48 at 98, 49, 25, 13 frames
        blocks = [(49, 16, 24), (25, 24, 32), (13, 32, 48)]
        return 98 * 16 * 3 * 40 + sum(t * n * (9 * m + 9 * n + m) for t, m, n in blocks) + 12 * 48
    if name == "lstm_p":
        return T * (4 * 500 * (20 + 200) + 200 * 500) + 12 * 200
    if name == "crnn":
        gru = (T - 6) * 3 * 256 * (256 + 256)
        return 16 * 9 * 18 * (T - 2) + 16 * 16 * 15 * 16 * (T - 6) + gru + 256 * 128 + 128 * 256 + 256 * 12
    if name == "ds_tc_resnet":  # depthwise k * m, pointwise and shortcut m * n
        plain = [(11, 40, 128), (29, 64, 128), (1, 128, 128)]
        residual = [(13, 128, 64), (15, 64, 64), (17, 64, 64)]
        first = sum(k * m + m * n for k, m, n in plain)
        return T * (first + sum(k * m + 2 * m * n for k, m, n in residual)) + 12 * 128
    # kwt_1: 12 blocks; in the last one the class token alone asks
    tokens, dense = T + 1, 64 * 64 + 2 * 64 * 256
    whole = tokens * (3 * 64 * 64 + dense) + 2 * tokens * tokens * 64
    last = 64 * 64 + tokens * 2 * 64 * 64 + 2 * tokens * 64 + dense
    return T * 40 * 64 + 11 * whole + last + 12 * 64


@pytest.mark.parametrize("name", ["tc_resnet8", "lstm_p", "crnn", "ds_tc_resnet", "kwt_1"])
def test_multiplications_are_those_counted_by_hand(name: str) -> None:
    assert count_macs(build_student(name, 12), T) == by_hand(name)


def test_tc_resnet8_has_its_published_three_million_operations() -> None:
    """arXiv 1904.03814, table 1: 3.0 M, a multiplication and an addition counted as two."""
    assert round(2 * count_macs(build_student("tc_resnet8", 12), 98) / 1e6, 1) == 3.0


def test_counting_changes_nothing() -> None:
    student = build_student("att_rnn", 12)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    count_macs(student, T)
    assert student.training
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize("name", list(STUDENTS))
def test_a_streamable_student_needs_no_more_than_its_look_ahead(name: str) -> None:
    """Cutting the clip short leaves every frame that lies `reach` before the cut; where nothing streams, not."""
    student = build_student(name, 12).double().eval()
    features, cut = torch.randn(1, 40, 160, dtype=torch.float64), 121
    with torch.no_grad():
        whole, short = student(features).frames, student(features[:, :, :cut]).frames
    centres = student.offset + student.stride * torch.arange(short.shape[1])
    same = torch.isclose(whole[:, : short.shape[1]], short, rtol=0, atol=1e-12).all(2)[0]
    assert same[centres + student.reach < cut].all() == student_facts(name, 0.02, 0.04).streamable


def test_facts_in_seconds() -> None:
    """TC-ResNet: 61 frames to either side. CRNN: 3 ahead, and all before."""
    facts = student_facts("tc_resnet", hop_seconds=0.02, window_seconds=0.04)
    assert (facts.frame_seconds, facts.receptive_field_seconds, facts.look_ahead_seconds) == (0.04, 2.48, 1.24)
    facts = student_facts("crnn", hop_seconds=0.02, window_seconds=0.04)
    assert (facts.scope, facts.receptive_field_seconds, facts.look_ahead_seconds) == ("past", None, 0.08)
    facts = student_facts("kwt_1", hop_seconds=0.02, window_seconds=0.04)
    assert (facts.streamable, facts.receptive_field_seconds, facts.look_ahead_seconds) == (False, None, None)


def test_every_student_is_listed() -> None:
    listed = json.loads(CliRunner().invoke(tkd, ["students", "--json"]).stdout)
    assert [row["name"] for row in listed] == list(STUDENTS)
    assert all(row["paper"].startswith("arXiv ") and row["macs_per_second"] > 0 for row in listed)
    shown = CliRunner().invoke(tkd, ["students"]).stdout.splitlines()
    assert shown[0].split()[:2] == ["student", "parameters"]
    assert shown[1].split()[:2] == ["lstm_p", "545,912"]
    assert len(shown) == 1 + len(STUDENTS)


def test_the_list_is_for_the_features_that_caches_hold() -> None:
    config = LogMelConfig()
    assert config.hop_length / config.sample_rate == command.HOP_SECONDS
    assert config.win_length / config.sample_rate == command.WINDOW_SECONDS
