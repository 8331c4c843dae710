"""The style sheet of the results page: light and dark, from a phone's 360 to a desk's 1440 pixels."""

STYLE = """
:root{--ink:#1b1f24;--muted:#5c6670;--line:#d8dde2;--paper:#fff;--card:#f6f7f9;--accent:#0b6e4f;--bad:#a3341c;--blue:#0072b2}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--muted:#a2adb8;--line:#333a42;--paper:#14171b;--card:#1d2126;
--accent:#5fd0a6;--bad:#ff9d85;--blue:#3f97dc}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:32px 24px 64px;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.4rem;line-height:1.3;margin:3rem 0 1rem;overflow-wrap:anywhere}
h3{font-size:1.05rem;margin:2.4rem 0 .7rem}
h4{font-size:.9rem;margin:1.2rem 0 .4rem}
.on,.note,figcaption,footer,small,.facts dt{color:var(--muted)}
.on{font-weight:400}
.lead{max-width:46rem;font-size:1.08rem;margin:0}
.note{font-size:.86rem;max-width:52rem;margin:.7rem 0 0}
.bad{color:var(--bad)}
ul.note{padding-left:1.2rem}
.facts{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:0 0 1.2rem}
.facts div{background:var(--card);border-radius:8px;padding:10px 14px}
.facts dt{font-size:.82rem}
.facts dd{margin:0;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.facts small{display:block;font-size:.8rem;font-weight:400;line-height:1.35}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:9px 12px;text-align:right;vertical-align:top}
thead th{font-size:.82rem;font-weight:500;color:var(--muted);border-bottom:1px solid var(--muted);vertical-align:bottom}
tbody tr{border-bottom:1px solid var(--line)}
th:first-child{text-align:left;padding-left:0}
tbody th{font-weight:600}
em{font-style:normal;display:block}
.main thead th,.main td{white-space:nowrap}
.main tbody th{position:relative;padding-left:1.25em}
.main .dot{position:absolute;left:0;top:1.1em}
.main td small{display:block;font-size:.75rem;font-weight:400;white-space:normal}
.beyond span{color:var(--accent);font-weight:600}
.beyond small{color:var(--muted)}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.5em;flex:none}
.sq{border-radius:3px;outline:1px solid var(--line)}
.void{background:repeating-linear-gradient(135deg,#707070 0 2px,#d8d8d8 2px 4px)}
.curves{margin:0}
.curves svg{display:block;width:100%;height:auto}
.curves text{font-family:inherit!important}
.narrow{display:none}
figcaption{font-size:.82rem}
.heat{width:auto}
.heat td{min-width:4.6rem;padding:7px 12px}
.heat tbody th,.heat td{white-space:nowrap}
.heat thead th{max-width:9rem;overflow-wrap:break-word}
.heat tbody th{font-weight:500}
.heat th:first-child{position:sticky;left:0;background:var(--paper);padding-right:16px}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0 0 12px;padding:0;font-size:.88rem}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:10px;margin-bottom:18px}
.strip figure{margin:0}
.strip img{display:block;width:100%;height:auto;border-radius:4px;image-rendering:pixelated}
.strip figcaption{margin-top:3px;overflow-wrap:anywhere}
details{border-bottom:1px solid var(--line)}
summary{cursor:pointer;padding:9px 2px;display:grid;grid-template-columns:minmax(6rem,14rem) 5rem 5rem 1fr;gap:0 12px;
overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
summary b::before{content:"+";display:inline-block;width:1.2em;font-weight:400;color:var(--muted)}
details[open] summary b::before{content:"\\2212"}
summary code{color:var(--muted);font-size:.84rem}
.inside{padding:0 0 18px 18px}
.inside dl{display:grid;grid-template-columns:minmax(9rem,auto) 1fr;gap:2px 18px;margin:0;font-size:.86rem}
.inside dt{color:var(--muted)}
.inside dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
pre{background:var(--card);border-radius:6px;padding:12px;overflow-x:auto;font-size:.82rem;line-height:1.45;margin:0}
footer{margin-top:3rem;font-size:.86rem}
@media (max-width:1060px){
.main{font-size:.82rem}
.main th+th,.main td{padding:8px 6px}
.main small{white-space:normal}
}
@media (max-width:720px){
.main{font-size:1rem}
body{padding:20px 16px 48px}
h1{font-size:1.6rem}
.facts{grid-template-columns:1fr 1fr;gap:8px}
.facts dd{font-size:1.1rem}
.wide{display:none}
.narrow{display:block;max-width:460px}
.main thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.main,.main tbody,.main tr,.main th,.main td{display:block}
.main tr{background:var(--card);border:0;border-radius:8px;padding:10px 14px;margin-bottom:10px}
.main tbody th{padding:0 0 4px 1.25em}
.main .dot{top:.5em}
.main td{display:flex;justify-content:space-between;gap:14px;padding:3px 0;white-space:normal}
.main td::before{content:attr(data-label);color:var(--muted);font-size:.86rem;flex:none}
.strip{grid-template-columns:repeat(3,1fr);gap:8px}
.main td{white-space:normal}
summary{grid-template-columns:minmax(5rem,1fr) 4rem 4rem}
summary code{grid-column:1/-1;padding-left:1.4em}
.inside{padding-left:0}
.inside dl{grid-template-columns:1fr}
.inside dd{margin-bottom:6px}
}
"""
