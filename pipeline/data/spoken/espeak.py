"""Speech from espeak-ng, bit-exact: one fresh process per voice, utterances in a fixed order.

espeak-ng keeps state between calls, so the same text spoken twice by one process differs. The same sequence of calls
in a fresh process does not. Run as a script this file is that process; it imports nothing but the standard library,
so that starting it is cheap.
"""

import ctypes
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 22050  # Hz, what espeak-ng synthesises at

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_RATE, _PITCH = 1, 3  # espeak_PARAMETER


@dataclass(frozen=True)
class Utterance:
    """One thing to say: `rate` in words per minute (80 to 450), `pitch` 0 to 100."""

    text: str
    rate: int
    pitch: int


def variants() -> list[str]:
    """Returns the names of espeak-ng's voice variants (timbres), sorted."""
    import espeakng_loader

    return sorted(path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir())


def speak(voice: str, utterances: list[Utterance]) -> list[bytes]:
    """Returns 16-bit little-endian mono PCM at SAMPLE_RATE for each utterance.

    Args:
        voice: Language file and variant, as in "gmw/en-US+f2". An unknown variant would be ignored silently by
            espeak-ng: take it from `variants()`.
        utterances: What to say, in this order: the result depends on it.

    Raises:
        RuntimeError: espeak-ng refused the voice or a text.
    """
    import espeakng_loader

    job = {
        "library": espeakng_loader.get_library_path(),
        "data": espeakng_loader.get_data_path(),
        "voice": voice,
        "utterances": [[u.text, u.rate, u.pitch] for u in utterances],
    }
    done = subprocess.run([sys.executable, "-I", "-S", __file__], input=json.dumps(job).encode(), capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"espeak-ng failed for voice {voice}: {done.stderr.decode(errors='replace').strip()}")
    pcm, position = [], 0
    while position < len(done.stdout):
        (size,) = struct.unpack_from("<I", done.stdout, position)
        pcm.append(done.stdout[position + 4 : position + 4 + size])
        position += 4 + size
    return pcm


def _main() -> None:
    job = json.load(sys.stdin)
    library = ctypes.CDLL(job["library"])
    if library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, job["data"].encode(), 0) != SAMPLE_RATE:
        sys.exit("espeak_Initialize failed")
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # it has seeded itself from the clock
    if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        sys.exit("no such voice")
    heard = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def collect(samples, n_samples, _events):
        if samples and n_samples > 0:
            heard.extend(ctypes.string_at(samples, 2 * n_samples))
        return 0

    library.espeak_SetSynthCallback(collect)
    for text, rate, pitch in job["utterances"]:
        heard.clear()
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode() + b"\0"
        if library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _CHARS_UTF8, None, None) != 0:
            sys.exit(f"could not say {text!r}")
        library.espeak_Synchronize()
        sys.stdout.buffer.write(struct.pack("<I", len(heard)) + bytes(heard))


if __name__ == "__main__":
    _main()
