"""The style of the report's page: light or dark as the reader's system is set, without any other file."""

STYLE = """
:root { color-scheme: light dark; --bg: #f7f7f5; --card: #fff; --text: #1d1f23; --soft: #62666d; --line: #dcdcd8;
  --error: #b3261e; --warning: #9a5b00; --note: #2f5f9e; --ok: #2c7a43; --s0: #3a6ea5; --s1: #d1793a; --s2: #4d9460;
  --s3: #8a63a8; }
@media (prefers-color-scheme: dark) { :root { --bg: #16181b; --card: #1f2226; --text: #e5e6e8; --soft: #9da2a9;
  --line: #363a40; --error: #ff8a80; --warning: #f0b35a; --note: #8ab6ee; --ok: #7fce97; --s0: #6fa3dc; --s1: #e59a62;
  --s2: #78bf8b; --s3: #b592d0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 34px 0 10px; } h3 { font-size: 15px; margin: 0; }
p { margin: 4px 0; } code { font: 13px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); } .error { color: var(--error); } .warning { color: var(--warning); }
.note { color: var(--note); } .ok { color: var(--ok); }
.counts { display: flex; gap: 10px; margin: 16px 0 0; flex-wrap: wrap; }
.counts a { border: 1px solid var(--line); background: var(--card); border-radius: 8px; padding: 6px 16px;
  text-decoration: none; } .counts b { font-size: 20px; margin-right: 6px; }
.card { background: var(--card); border: 1px solid var(--line); border-left-width: 5px; border-radius: 6px;
  padding: 12px 16px; margin: 10px 0; }
.card.error { border-left-color: var(--error); } .card.warning { border-left-color: var(--warning); }
.card.note { border-left-color: var(--note); } .card.error, .card.warning, .card.note { color: var(--text); }
.head { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; }
.badge { font-size: 12px; font-weight: 600; text-transform: uppercase; letter-spacing: .03em; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 10px; align-items: flex-start; }
figure { margin: 0; max-width: 320px; } figure.pair { max-width: 660px; }
figure div { display: flex; gap: 4px; align-items: flex-start; }
figure img { display: block; max-width: 320px; max-height: 260px; min-width: 40px; border-radius: 3px;
  background: #777; }
figure.pair img { max-width: 260px; }
figcaption { font-size: 12px; color: var(--soft); margin-top: 3px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: var(--card); width: 100%; }
th, td { border: 1px solid var(--line); padding: 5px 10px; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); gap: 12px;
  align-items: start; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--line); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 11px; } .label { fill: var(--text); font-size: 12px; }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 12px; }
.key.s0 { background: var(--s0); } .key.s1 { background: var(--s1); } .key.s2 { background: var(--s2); }
.key.s3 { background: var(--s3); } details summary { cursor: pointer; } li { margin: 2px 0; }
@media print { .card, .chart { break-inside: avoid; } }
"""
