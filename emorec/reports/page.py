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
  --accent: #1f6feb; --second: #c2410c; --loss: #7c3aed;
  --k0: #15803d; --k1: #86c99a; --k2: #f2a477; --k3: #c2410c;
  --n0: #1f4f99; --n1: #5b8fd9; --n2: #a9c7f0; --n3: #cfd6df;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --ink: #e6e9ee; --soft: #98a2b0; --line: #2c323b; --tile: #1c2128;
    --accent: #6cabff; --second: #fb9460; --loss: #b79cff;
    --k0: #3fb068; --k1: #2a6b43; --k2: #8a4a24; --k3: #f0793a;
    --n0: #7fb2f7; --n1: #4678bd; --n2: #2c4a75; --n3: #3a424e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem;
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
.run, .terms { display: grid; gap: .35rem 1.5rem; margin: 0; font-size: .9rem; }
.run { grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.run div, .terms div { display: grid; grid-template-columns: 8.5rem 1fr; gap: .75rem; }
.run div { grid-template-columns: 5.5rem 1fr; }
.terms { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
dt { color: var(--soft); }
.terms dt { color: var(--ink); font-weight: 600; }
.run dd, .terms dd { margin: 0; overflow-wrap: anywhere; }
.terms dd { color: var(--soft); }
pre { background: var(--tile); border-radius: .5rem; padding: .7rem .9rem; margin: 1rem 0;
  font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
section h3 { margin-top: 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .925rem; }
th, td { padding: .42rem .55rem; text-align: right; white-space: nowrap; }
th { font-weight: 500; }
thead th { color: var(--soft); }
td small { color: var(--soft); }
thead tr:last-child th { border-bottom: 1px solid var(--line); }
thead th[rowspan] { border-bottom: 1px solid var(--line); vertical-align: bottom; }
th.group { text-align: center; padding-bottom: 0; }
th[scope=row], thead th[rowspan], th.model { text-align: left; padding-left: 0; }
th[scope=row], thead th[rowspan], th.model { position: sticky; left: 0; z-index: 1;
  background: var(--page); }
table.settings { width: auto; }
table.settings td { text-align: left; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.first, th.group { border-left: 1px solid var(--line); }
td strong { color: var(--accent); font-weight: 650; }
a { color: var(--accent); }
details { margin: .75rem 0; font-size: .925rem; }
summary { color: var(--soft); cursor: pointer; }
figure { margin: 1rem 0 0; }
figure svg { display: block; width: 100%; height: auto; }
.figures { display: grid; gap: 1rem 1.5rem; max-width: 60rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.figures figure { max-width: 30rem; }
.wide { max-width: 52rem; }
.narrow { display: none; }
.learned table { max-width: 36rem; }
.user { margin-top: 1.5rem; padding: .9rem 1rem; border: 1px solid var(--line);
  border-radius: .5rem; overflow-wrap: anywhere; }
.user h3 { color: var(--ink); font-size: 1rem; font-weight: 650; margin: 0; }
.user h3 small, .user li small { color: var(--soft); font-weight: 400; }
.user h4 { color: var(--soft); font-size: .8rem; font-weight: 500; margin: .6rem 0 .2rem; }
.two { display: grid; grid-template-columns: 2fr 3fr; gap: .5rem 2rem; font-size: .9rem; }
.events { list-style: none; padding: 0; margin: 0; }
.list { padding-left: 1.6rem; margin: 0; }
.liked { color: var(--soft); }
.mark { font-size: .8rem; white-space: nowrap; border: 1px solid var(--line); border-radius: 1rem;
  padding: .05rem .5rem; }
.mark i { display: inline-block; width: .6rem; height: .6rem; border-radius: 2px;
  margin-right: .35rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .wide { display: none; }
  .narrow { display: block; }
  .two { grid-template-columns: 1fr; }
  th[scope=row], thead th[rowspan], th.model { max-width: 8rem; overflow-wrap: break-word; }
  th { white-space: normal; }
  .run div, .terms div { grid-template-columns: 6.5rem 1fr; }
}
</style>
</head>
<body>
<h1>$title</h1>
<main>
$head
<section>
<h2>Data</h2>
$card
</section>
<section>
<h2>Results, top $k</h2>
$results
<p class="note">Means over test users, ranked over the full catalogue. <a href="#terms">Terms</a>
are explained below the tables.</p>
$predictions
$popularity
</section>
<section id="terms">
<h2>Terms</h2>
$terms
</section>
<section>
<h2>Liked and disliked</h2>
$plane
<p class="note">What no other model beats on both axes is coloured; a dashed line joins such
models.</p>
</section>
$calibration
<section>
<h2>Training</h2>
$training
</section>
$learned
$examples
</main>
</body>
</html>
""")
