"""The frame of the HTML report: its prose and its looks, in light and dark."""

from __future__ import annotations

from string import Template

__all__ = ["PAGE"]

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1c2128; --soft: #667080; --line: #e3e6ea; --tile: #f6f7f9;
  --accent: #1f6feb; --second: #c2410c;
  --k0: #15803d; --k1: #86c99a; --k2: #f2a477; --k3: #c2410c;
  --n0: #1f4f99; --n1: #5b8fd9; --n2: #a9c7f0; --n3: #cfd6df;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --ink: #e6e9ee; --soft: #98a2b0; --line: #2c323b; --tile: #1c2128;
    --accent: #6cabff; --second: #fb9460;
    --k0: #3fb068; --k1: #2a6b43; --k2: #8a4a24; --k3: #f0793a;
    --n0: #7fb2f7; --n1: #4678bd; --n2: #2c4a75; --n3: #3a424e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 56rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 2rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: .8rem; font-weight: 500; color: var(--soft); margin: 0 0 .4rem; }
p { max-width: 44rem; margin: .75rem 0; }
.note { color: var(--soft); font-size: .875rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin: 0; }
.facts div { background: var(--tile); border-radius: .5rem; padding: .7rem .9rem; }
.facts dt { font-size: .8rem; color: var(--soft); }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
.shares { margin-top: 1.4rem; }
.bar { display: flex; gap: 2px; height: .7rem; border-radius: .35rem; overflow: hidden;
  background: var(--tile); }
.shares ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; padding: 0;
  margin: .5rem 0 0; font-size: .875rem; }
.shares i { display: inline-block; width: .65rem; height: .65rem; border-radius: 2px;
  margin-right: .45rem; }
.shares small { color: var(--soft); font-size: inherit; }
.k0 { background: var(--k0); } .k1 { background: var(--k1); }
.k2 { background: var(--k2); } .k3 { background: var(--k3); }
.n0 { background: var(--n0); } .n1 { background: var(--n1); }
.n2 { background: var(--n2); } .n3 { background: var(--n3); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .925rem; }
th, td { padding: .42rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 500; }
thead th { color: var(--soft); }
td small { color: var(--soft); }
thead tr:last-child th { border-bottom: 1px solid var(--line); }
thead th[rowspan] { border-bottom: 1px solid var(--line); vertical-align: bottom; }
th.group { text-align: center; padding-bottom: 0; }
th:first-child[scope=row], thead th[rowspan], th.model { text-align: left; padding-left: 0; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.first, th.group { border-left: 1px solid var(--line); }
td strong { color: var(--accent); font-weight: 650; }
figure { margin: 1rem 0 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 32rem; }
</style>
</head>
<body>
<h1>$title</h1>
<main>
<section>
<h2>Data</h2>
$card
</section>
<section>
<h2>Results, top $k</h2>
<div class="scroll">$results</div>
<p class="note">Means over test users, ranked over the full catalogue without the items a user has
already seen. <em>Any</em>: every held-out item is relevant. <em>Likes</em>: only those with
positive feedback. <em>Dislikes, recall</em>: how much of what a user turned out to dislike was
recommended. <em>Dislikes, share</em>: disliked items among all held-out items that were
recommended. An arrow marks columns where lower is better; the best value of each is coloured.</p>
$predictions
</section>
<section>
<h2>Liked and disliked</h2>
$plane
<p class="note">What no other model beats on both axes is coloured; a dashed line joins such
models.</p>
</section>
<section>
<h2>Training</h2>
$training
</section>
</main>
</body>
</html>
""")
