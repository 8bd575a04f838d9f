"""The page: whole without the network, sound in a real browser at two widths; what is missing is said."""

import dataclasses
import html.parser
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import Browser, find_chromium
from report_runs import LABELS, RATE, make_cache, make_run, pcm
from safetensors.numpy import save_file

from pipeline.data.spoken.synth import mini
from pipeline.report.drawing.charts import Series, chart
from pipeline.report.drawing.markup import Markup, element
from pipeline.report.examples import Recordings, rows_by_label
from pipeline.report.folder import report
from pipeline.report.numbers.evidence import find_evidence
from pipeline.report.numbers.gathered import results_of
from pipeline.report.numbers.records import read_records
from pipeline.report.numbers.results import Column
from pipeline.report.page.compared import compare_lengths
from pipeline.report.page.curves import _curve

VOID = {"meta", "br", "img"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("caches") / "Größe <&>.zarr", n_test=120, length_seconds=1.0)


@pytest.fixture(scope="module")
def recordings(cache):
    ids = cache.read("clip_id")
    rows = {str(name): SimpleNamespace(row=n, snr_db=float(n % 16)) for n, name in enumerate(ids)}
    return Recordings(rows, lambda clip: pcm(clip.row), RATE, "b" * 64)


@pytest.fixture(scope="module")
def page(cache, recordings, tmp_path_factory):
    """Two students without and with KD and a control, two seeds."""
    folder = tmp_path_factory.mktemp("report <i>")
    for student in ("tc_resnet8", "bc_resnet_1"):
        for target, weight in (("rollout", 0.0), ("rollout", 0.25), ("shuffled", 0.25)):
            for seed in range(2):
                settings = {"student": student, "frame_weights": target, "kd_weight": weight, "seed": seed}
                name = f"{student}-{target}-{weight}-{seed} ü&<"
                make_run(folder / "runs" / name, cache, 0.4 + weight + 0.1 * seed, in_event=0.3 + weight, **settings)
    report([folder / "runs"], folder / "out", recordings)
    return folder / "out" / "index.html"


class Reader(html.parser.HTMLParser):
    """The tags of a page, in their order and closed as they were opened, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.text, self.faults = [], [], [], []
        self.feed(text)
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_every_tag_is_closed_and_nothing_is_asked_of_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    found = Reader(text)
    assert found.faults == []
    for tag, attributes in found.tags:
        for name in ("src", "href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, value[:80])
        assert not any(name.startswith("on") for name in attributes)
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert sum(tag == "audio" for tag, _ in found.tags) == len(LABELS) // 2  # of labels whose event is known
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in found.tags if tag == "a"}
    assert links <= set(ids)


def test_all_text_is_escaped_and_comes_back_as_it_was(page):
    found = Reader(page.read_text(encoding="utf-8"))
    said = "".join(found.text)
    assert not any(tag in ("b", "i") and attributes for tag, attributes in found.tags)
    assert LABELS[1] in said and LABELS[2] in said and "clip <" in said and "ü&<" in said and "Größe <&>.zarr" in said
    assert "<b>&\"'" not in page.read_text(encoding="utf-8")


def test_every_drawing_has_a_name_and_a_description(page):
    drawings = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.S)
    figures = [drawing for drawing in drawings if 'viewBox="0 0 28 8"' not in drawing]
    assert len(figures) > 10
    assert all("<title>" in drawing and "<desc>" in drawing for drawing in figures)


def test_what_no_page_may_hold_becomes_a_replacement_character():
    assert element("p", "\x00a\x1b[31m\udc80", title='"<') == '<p title="&quot;&lt;">\ufffda\ufffd[31m\ufffd</p>'
    assert element("p", Markup("<br>"), ["x", None]) == "<p><br>x</p>"


def test_sound_is_given_only_where_it_is_that_of_the_cache(cache, recordings, tmp_path):
    make_run(tmp_path / "runs" / "a", cache, 0.5)
    other = Recordings(recordings.clips, lambda clip: pcm(clip.row + 1), RATE, "b" * 64)
    report([tmp_path / "runs"], tmp_path / "out", other)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<audio" not in text and "sounds otherwise in the data set given with --data" in text
    report([tmp_path / "runs"], tmp_path / "out", Recordings({}, pcm, RATE, "b" * 64))
    assert "not in the data set given with --data" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert '<section id="noise">' in text
    said = report([tmp_path / "runs"], tmp_path / "out", dataclasses.replace(recordings, sha256="c" * 64))
    assert any(line.startswith("--data: not the data set of these runs' caches") for line in said)
    assert '<section id="noise">' not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_what_is_damaged_of_a_clip_is_said_and_the_rest_is_reported(recordings, tmp_path):
    cache = make_cache(tmp_path / "c.zarr")
    make_run(tmp_path / "runs" / "a", cache, 0.5)
    (tmp_path / "out").mkdir()
    report([tmp_path / "runs"], tmp_path / "out", recordings)
    assert (tmp_path / "out" / "attention.png").exists()
    for shard in (tmp_path / "c.zarr" / "audio_sha256" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"")
    report([tmp_path / "runs"], tmp_path / "out", recordings)
    said = "".join(Reader((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text)
    assert "Not shown: clip <" in said and "audio_sha256" in said and "50.00" in said
    (tmp_path / "c.zarr" / "view" / "c" / "0").write_bytes(b"")
    lines = report([tmp_path / "runs"], tmp_path / "out", recordings)
    assert lines[-1].startswith("No figure: Cache") and not (tmp_path / "out" / "attention.png").exists()


def test_without_the_cache_and_of_earlier_runs_what_is_missing_is_said(tmp_path):
    gone = make_cache(tmp_path / "gone.zarr")
    for weight in (0.0, 0.25):
        run = make_run(tmp_path / "runs" / str(weight), gone, 0.5 + weight, kd_weight=weight, parts=())
        metrics = run / "metrics.json"
        metrics.write_text(re.sub(r'"attention": \{.*?\}, ', "", metrics.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(tmp_path / "gone.zarr")
    lines = report([tmp_path / "runs"], tmp_path / "out")
    said = "".join(Reader((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text)
    for missing in (
        f"Cache {gone.metadata['cache_id'][:12]} is not at hand",
        "No learning curves of 2 runs",
        "No sound",
    ):
        assert missing in said, missing
    assert "50.00" in said and "75.00" in said and "No interval:" in said
    assert lines[-1].startswith("No figure: Cache")


def test_a_cache_of_rollouts_alone_and_without_events_is_reported(tmp_path):
    cache = make_cache(tmp_path / "c.zarr", keep="rollout")
    make_run(tmp_path / "runs" / "a", cache, 0.5)
    report([tmp_path / "runs"], tmp_path / "out")
    said = "".join(Reader((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text)
    assert "it keeps no weights by layer" in said


def test_several_labels_a_clip_give_average_precisions(tmp_path):
    cache = make_cache(tmp_path / "c.zarr", task="multi_label")
    for weight in (0.0, 0.25):
        make_run(tmp_path / "runs" / str(weight), cache, 0.4 + weight, kd_weight=weight)
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "AP without KD" in text and "0.4000" in text and "accuracy" not in "".join(Reader(text).text).lower()


def test_lengths_and_shares_of_the_data_are_drawn_where_there_are_several(tmp_path):
    for seconds in (4.0, 8.0):
        recipe = mini(seconds).recipe()
        cache = make_cache(tmp_path / f"{seconds}.zarr", n_test=20, keep="rollout", dataset=recipe["name"], **recipe)
        for fraction in (0.1, 1.0):
            for weight in (0.0, 0.25):
                settings = {"kd_weight": weight, "fraction": fraction}
                make_run(tmp_path / "runs" / f"{seconds}-{fraction}-{weight}", cache, 0.5, parts=(), **settings)
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert text.count("accuracy, % against clip length, s") == 2  # a share each
    assert all(f"mini, mini-8s, fraction {share}: test accuracy" in text for share in ("0.1", "1"))
    assert "Its speech and noise are synthetic." in text
    assert text.count("accuracy, % against share of the training clips") == 2  # a length each
    assert (tmp_path / "out" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree(tmp_path / "runs")
    make_run(tmp_path / "runs" / "alone", cache, 0.5)
    report([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out" / "lengths.png").exists(), "of the earlier report"


def test_scores_by_length_are_of_the_weights_that_all_lengths_have(tmp_path):
    scores = {4.0: {0.0: (0.4, 0.6), 0.1: (0.5, 0.55), 0.25: (0.9, 0.9)}, 8.0: {0.0: (0.2, 0.3), 0.1: (0.3, 0.45)}}
    for seconds, weights in scores.items():
        recipe = mini(seconds).recipe()
        cache = make_cache(tmp_path / f"{seconds}.zarr", n_test=20, keep="rollout", dataset=recipe["name"], **recipe)
        for weight, by_seed in weights.items():
            for seed, score in enumerate(by_seed):
                run = tmp_path / "runs" / f"{seconds}-{weight}-{seed}"
                make_run(run, cache, score, parts=(), kd_weight=weight, seed=seed)
    records, _ = read_records([tmp_path / "runs"])
    tables, _ = results_of(records, find_evidence(records))
    (found,) = compare_lengths(tables)
    half = np.sqrt(0.5)  # of a difference between two, their standard deviation
    assert found.places == [4, 8]
    expected = {
        "without KD": [(4, 50, 20 * half), (8, 25, 10 * half)],
        "with KD, as validation likes it best": [(4, 52.5, 5 * half), (8, 37.5, 15 * half)],
    }
    for role, points in expected.items():
        np.testing.assert_allclose(found.students["tc_resnet8"][role], points)


def test_lengths_stand_in_their_order_whatever_their_names_and_clips_are_the_recordings(recordings, tmp_path):
    for seconds, manifest in ((2.0, "c" * 64), (4.0, "b" * 64), (8.0, "d" * 64)):
        recipe = mini(seconds).recipe()
        kept = {"n_test": 20, "keep": "rollout", "manifest": manifest, "dataset": recipe["name"]}
        cache = make_cache(tmp_path / f"{seconds}.zarr", **kept, **recipe)
        for epochs, weight in ((3, 0.0), (12, 0.0), (12, 0.25)):
            settings = {"kd_weight": weight, "epochs": epochs}
            make_run(tmp_path / "runs" / f"{seconds}-{epochs}-{weight}", cache, 0.5, parts=(), **settings)
    report([tmp_path / "runs"], tmp_path / "out", recordings)
    titles = re.findall(r"^## (.*)", (tmp_path / "out" / "results.md").read_text(encoding="utf-8"), re.MULTILINE)
    lengths = ("mini-2s, 2 s", "mini, 4 s", "mini-8s, 8 s")
    assert titles == [f"{length}, epochs {epochs}" for length in lengths for epochs in (12, 3)], "most runs first"
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "mini, 4 s, epochs 12: log-mel spectrogram" in text and text.count("<audio") == 2


def test_shares_of_the_data_that_hear_as_many_clips_are_drawn_together(cache, tmp_path):
    for fraction, epochs in ((0.1, 40), (0.3, 13), (1.0, 4), (0.5, 4)):
        settings = {"fraction": fraction, "epochs": epochs}
        make_run(tmp_path / "runs" / f"{fraction}", cache, 0.5, parts=(), kd_weight=0.0, **settings)
    alone = {"student": "crnn", "fraction": 1.0, "epochs": 4}
    make_run(tmp_path / "runs" / "alone", cache, 0.5, parts=(), kd_weight=0.0, **alone)
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    drawn = re.findall(r"accuracy, % against share of the training clips", text)
    assert len(drawn) == 2  # 10, 30 and 100 %, and of as many epochs 50 and 100 %
    section = text.partition('id="fractions"')[2].partition("</section>")[0]
    assert "planted, 4 epochs each: " in section and "planted, as many clips heard as in 4 epochs of all: " in section
    assert "without KD" in section and "with KD" not in section, "a name of what is not drawn"


def test_a_learning_curve_ends_with_the_seed_that_stopped_first(cache, tmp_path):
    for seed, epochs in enumerate((4, 6)):
        make_run(tmp_path / "runs" / str(seed), cache, 0.5, seed=seed, epochs=6)
        file = tmp_path / "runs" / str(seed) / "history.json"
        file.write_text(json.dumps(json.loads(file.read_text())[:epochs]))
    records, _ = read_records([tmp_path / "runs"])
    (results,), _ = results_of(records, find_evidence(records))
    curve = _curve(results, "tc_resnet8", Column("rollout", 0.25), "validation", 1)
    expected = [np.mean([run.history[n]["validation"] for run in records]) for n in range(4)]
    assert [x for x, _ in curve.points] == [1, 2, 3, 4]
    np.testing.assert_allclose([y for _, y in curve.points], expected)


def test_what_a_learned_mixture_took_is_shown_and_damage_said(cache, tmp_path):
    for seed, place in enumerate((5, 5, 0)):
        run = make_run(tmp_path / "runs" / str(seed), cache, 0.5, seed=seed, kd_weight=0.25, frame_weights="learned")
        mixture = np.zeros(6, np.float32)
        mixture[place] = 5.0  # ten times this is the logit: all of the weight
        save_file({"mixture": mixture}, run / "distillation.safetensors")
    broken = make_run(tmp_path / "runs" / "3", cache, 0.5, seed=3, kd_weight=0.25, frame_weights="learned")
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    section = text.partition('id="mixtures"')[2].partition("</section>")[0]
    assert "tc_resnet8, kd learned 0.25" in section
    for said in ("layer 1, head 2: 0.667", "layer 0, head 0: 0.333", "layer 0, head 1: 0.000"):
        assert said in section, said
    assert f"{broken}/distillation.safetensors: damaged" in "".join(Reader(text).text)


def test_a_name_covers_no_mark_and_no_other_name():
    scores = {"LSTM-P": (545_912, 30.7, 49.7), "TC-ResNet": (366_894, 70.2, 74.3), "CRNN": (467_772, 47.8, 71.5)}
    scores |= {"Att-RNN": (496_519, 70.6, 73.1), "MHAtt-RNN": (743_047, 70.8, 70.8)}
    rings = [Series(name, [(size, ring)], "v", marks=3.6) for name, (size, ring, _) in scores.items()]
    dots = [Series(name, [(size, dot)], "k2", marks=3.6, names=(name,)) for name, (size, _, dot) in scores.items()]
    drawing = chart("Title", "Dots.", [*rings, *dots], "x", "y", log_x=True)
    marks = [tuple(map(float, it)) for it in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="here">(.*?)<', drawing)
    boxes = [(float(x), float(x) + 5.6 * len(name), float(y) - 9, float(y)) for x, y, name in found]
    assert len(marks) == 10 and len(boxes) == 5
    for n, (left, right, top, bottom) in enumerate(boxes):
        assert not any(left < x + 3 and x - 3 < right and top < y + 3 and y - 3 < bottom for x, y in marks), found[n]
        for other in boxes[:n]:
            assert left >= other[1] or other[0] >= right or top >= other[3] or other[2] >= bottom, found[n]


def test_a_page_of_120_runs_is_small(cache, recordings, tmp_path):
    for weight in range(40):
        for seed in range(3):
            settings = {"kd_weight": weight / 100, "seed": seed}
            make_run(tmp_path / "runs" / f"{weight}-{seed}", cache, 0.5, parts=("history", "test"), **settings)
    report([tmp_path / "runs"], tmp_path / "out", recordings)
    assert (tmp_path / "out" / "index.html").stat().st_size < 1_000_000


def test_examples_have_the_last_labels_and_a_known_event_and_are_different_ones():
    has = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]]).bool()
    known = torch.tensor([1, 1, 1, 1, 0]).bool()
    assert rows_by_label(has, known, 2) == [1, 2]
    assert rows_by_label(has, torch.zeros(5, dtype=bool), 9) == [0, 1, 2]
    assert rows_by_label(has[2:], known[2:], 3) == [0], "one clip for both of its labels"
    assert rows_by_label(has, torch.tensor([0, 0, 0, 1, 0]).bool(), 3) == [0, 1, 2], "the known one has no label"


@pytest.mark.skipif(find_chromium() is None, reason="no chromium, chromium-browser or google-chrome here")
def test_in_a_browser_nothing_fails_or_overflows_and_clips_play(page, tmp_path):
    with Browser(tmp_path) as browser:
        for width, dark in ((1280, False), (390, False), (390, True)):
            browser.open(page, width, dark=dark)
            for details in ("false", "true"):
                browser.evaluate(f"document.querySelectorAll('details').forEach(it => it.open = {details})")
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, (width, details)
            asked = [
                it["params"]["request"]["url"] for it in browser.events if it["method"] == "Network.requestWillBeSent"
            ]
            assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]
            failed = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
            assert [it for it in browser.events if it["method"] in failed] == []
        ink, paper = browser.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert sum(map(int, re.findall(r"\d+", ink))) > 600 > 200 > sum(map(int, re.findall(r"\d+", paper))), "dark"
        durations = browser.evaluate("[...document.querySelectorAll('audio')].map(it => it.duration)")
        assert durations == pytest.approx([1.0] * (len(LABELS) // 2))
        seen = browser.evaluate(
            "(async () => { const audio = document.querySelector('audio'); await audio.play();"
            "await new Promise(done => audio.addEventListener('ended', done));"
            "return [audio.error, audio.currentTime, document.querySelector('.now').style.visibility]; })()"
        )
        assert seen == [None, pytest.approx(1.0), "visible"]
