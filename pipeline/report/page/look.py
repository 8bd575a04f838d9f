"""How the page looks, and the one thing on it that moves: the line that follows the sound."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fffefb; --ink: #1d1d1b; --soft: #5f5e58; --rule: #d9d6cc; --shade: #f4f2ea; --link: #1b4f8a;
  --good: #1a6b3c; --bad: #a32a1c; --event: #2f9e62; --heat: 24, 88, 150;
  --v: #1f78b4; --k0: #eeae4f; --k1: #dd7a26; --k2: #b3440f; --k3: #6d2405;
  --m0: #0b7a75; --m1: #5b4bb5; --m2: #55575c; --uniform: #85852b; --shuffled: #a0527a; --true: #2e8b57; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #16171a; --ink: #e9e7e1; --soft: #a5a39b; --rule: #3a3b3f; --shade: #202226; --link: #8fbcf0;
  --good: #6fcf97; --bad: #f08a7a; --event: #4cc07f; --heat: 96, 165, 230;
  --v: #6db7ec; --k0: #ffd089; --k1: #ffa04a; --k2: #f0703a; --k3: #d14a2a;
  --m0: #4cc3bb; --m1: #a99cf5; --m2: #b4b6bb; --uniform: #cfcf6a; --shuffled: #dc92b6; --true: #6fcf97; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 "Iowan Old Style", "Palatino Linotype", Palatino, "Noto Serif", Georgia, serif; }
main, body > header, body > footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
body > header { padding-top: 2.5rem; }
body > footer { padding: 2rem 1.25rem 3rem; color: var(--soft); font-size: .85rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; font-weight: 600; }
h2 { font-size: 1.35rem; font-weight: 600; margin: 3rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; font-weight: 600; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; }
.lead { color: var(--soft); }
.verdict { border-left: 3px solid var(--k2); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
.verdict h3 { margin-top: 0; }
.verdict ul { padding-left: 1.1rem; }
.verdict li:last-child { color: var(--soft); font-size: .86rem; }
.note { color: var(--soft); font-size: .86rem; }
a { color: var(--link); }
nav { font: .88rem/1.5 system-ui, sans-serif; margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; max-width: 100%; }
table { border-collapse: collapse; font: .84rem/1.35 system-ui, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th, td { padding: .32rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: .1rem; font-weight: 500;
  position: sticky; left: 0; background: var(--paper); }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
td small { display: block; color: var(--soft); font-size: .72rem; }
td small.good { color: var(--good); font-weight: 600; }
td small.bad { color: var(--bad); font-weight: 600; }
td small.paper { font-style: italic; }
td .chosen { outline: 1.3px solid var(--k2); outline-offset: 1px; padding: 0 .15rem; border-radius: 2px; }
.runs li { max-width: none; margin: .5rem 0; font-size: .88rem; }
code { font: .78rem/1.4 ui-monospace, "SFMono-Regular", Menlo, monospace; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; }
figcaption { color: var(--soft); font-size: .86rem; max-width: 46rem; margin-top: .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19.5rem), 1fr)); gap: 1rem 1.4rem; }
.charts > * { min-width: 0; margin: 0; }
.clip audio { width: 100%; height: 2.2rem; margin-top: .3rem; }
.clip h3 { margin: 0 0 .2rem; font-size: .9rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 10px system-ui, "Noto Sans", sans-serif; fill: var(--soft); }
svg text.head { font-size: 11.5px; font-weight: 600; fill: var(--ink); }
svg text.here { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: .6; }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none; }
svg .line { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .control { stroke-dasharray: 4 3; }
svg .event { fill: var(--event); opacity: .18; }
svg .edge { stroke: var(--event); stroke-width: 1.2; }
svg .now { stroke: var(--bad); stroke-width: 1.2; visibility: hidden; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0 .6rem; padding: 0; list-style: none;
  font: .8rem/1.6 system-ui, sans-serif; }
.legend svg { display: inline-block; width: 1.7rem; height: .6rem; margin-right: .35rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; font: .88rem/1.6 system-ui, sans-serif; color: var(--link); }
@media (max-width: 40rem) { body { font-size: 16px; } h1 { font-size: 1.55rem; } th, td { padding: .3rem .5rem; } }
@media print { body { background: none; } details > * { display: block; } .scroll { overflow: visible; } }
"""

SCRIPT = """
for (const clip of document.querySelectorAll(".clip")) {
  const audio = clip.querySelector("audio"), line = clip.querySelector(".now");
  if (!audio || !line) continue;
  const from = +line.dataset.from, width = +line.dataset.width, seconds = +line.dataset.seconds;
  const follow = () => {
    const x = from + width * Math.min(1, audio.currentTime / seconds);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    line.style.visibility = audio.currentTime > 0 ? "visible" : "hidden";
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", follow);
}
"""
