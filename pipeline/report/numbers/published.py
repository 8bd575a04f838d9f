"""The published results, and when they may stand beside ours.

Tables 1 and 2 of Choi, Kersner, Morton, Chang, "Temporal Knowledge Distillation for On-device Audio Classification",
ICASSP 2022, arXiv 2110.14131: one run each. Scores are 0 to 1, as everywhere.
"""

from pipeline.report.numbers.evidence import Evidence

SOURCE = "Choi et al., ICASSP 2022, arXiv 2110.14131"
KD_WEIGHTS = (0.0, 0.1, 0.25, 0.5)
PAPER_NAMES = {
    "lstm_p": "LSTM-P",
    "tc_resnet": "TC-ResNet",
    "crnn": "CRNN",
    "att_rnn": "Att-RNN",
    "mhatt_rnn": "MHAtt-RNN",
}

FSD50K_TEACHER = 0.5498
FSD50K = {  # mAP, at KD_WEIGHTS
    "lstm_p": (0.1141, 0.1274, 0.1300, 0.1043),
    "tc_resnet": (0.1814, 0.1841, 0.1951, 0.1509),
    "crnn": (0.2789, 0.2670, 0.2835, 0.3053),
    "att_rnn": (0.2856, 0.3471, 0.2885, 0.2891),
    "mhatt_rnn": (0.2647, 0.1694, 0.3182, 0.3317),
}

NSCV2_TEACHER = {2: 90.59, 4: 91.22, 6: 90.93, 8: 90.95}  # accuracy in %, by seconds
NSCV2 = {  # accuracy in %, at KD_WEIGHTS, by seconds
    2: {
        "lstm_p": (88.73, 88.98, 89.31, 88.92),
        "tc_resnet": (87.77, 88.08, 86.21, 86.27),
        "crnn": (89.96, 90.06, 90.00, 89.46),
        "att_rnn": (89.88, 91.31, 91.67, 90.94),
        "mhatt_rnn": (89.75, 91.25, 91.67, 91.75),
    },
    4: {
        "lstm_p": (85.19, 88.23, 88.52, 89.08),
        "tc_resnet": (87.60, 88.33, 87.21, 84.62),
        "crnn": (89.69, 89.44, 89.46, 90.21),
        "att_rnn": (90.65, 91.98, 91.79, 91.58),
        "mhatt_rnn": (91.19, 91.58, 92.12, 91.73),
    },
    6: {
        "lstm_p": (45.27, 69.21, 85.58, 85.10),
        "tc_resnet": (86.00, 86.85, 84.23, 82.10),
        "crnn": (88.58, 89.88, 89.29, 89.46),
        "att_rnn": (90.88, 90.77, 90.73, 91.19),
        "mhatt_rnn": (90.58, 90.96, 91.67, 91.10),
    },
    8: {
        "lstm_p": (78.44, 82.19, 34.58, 66.25),
        "tc_resnet": (77.81, 85.79, 85.71, 80.15),
        "crnn": (88.94, 89.02, 89.79, 89.77),
        "att_rnn": (88.81, 90.44, 90.98, 90.75),
        "mhatt_rnn": (88.33, 91.50, 91.79, 91.35),
    },
}

_NSCV2_TEST, _FSD50K_TEST = 4890, 10231  # clips of the whole test splits
NSCV2_NOTE = "The paper says neither which noise nor how loud, and scores 4,800 of the 4,890 test clips."


def published(dataset: str, evidence: Evidence) -> tuple[float, dict[str, dict[float, float]]] | None:
    """Returns the paper's scores on the data set of a cache: the teacher's, and each student's by kd_weight; else None.

    The same data set is one of that name, task and test split, and for nscv2 of a clip length that the paper has. A
    cache that is not at hand is not known to be the same, and the paper has no scores of students trained elsewhere.
    """
    if evidence.cache is None or not evidence.trained_from:
        return None
    size = (len(evidence.rows), len(evidence.cache.labels))
    if dataset == "fsd50k" and size == (_FSD50K_TEST, 200):
        return FSD50K_TEACHER, {name: dict(zip(KD_WEIGHTS, scores, strict=True)) for name, scores in FSD50K.items()}
    if dataset == "nscv2" and size == (_NSCV2_TEST, 12) and evidence.seconds in NSCV2:
        table = {
            name: {weight: score / 100 for weight, score in zip(KD_WEIGHTS, scores, strict=True)}
            for name, scores in NSCV2[evidence.seconds].items()
        }
        return NSCV2_TEACHER[evidence.seconds] / 100, table
    return None
