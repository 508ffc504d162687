"""The report's HTML and CSS, a Jinja template; whoever fills it in must escape what goes in."""

STYLE = """\
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #57606a; --page: #fff; --raised: #f4f6f8; --line: #d0d7de;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ec; --quiet: #a3adb8; --page: #14181d; --raised: #1e242b; --line: #3a434d; --link: #7cb7ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: break-word; }
h1 { margin: 0.5rem 0 0; } h2 { margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 0.5rem; }
p { max-width: 45rem; } a { color: var(--link); }
header p, figcaption, small, .unit, .floor { color: var(--quiet); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 1rem 0; padding: 0; list-style: none; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0.75rem; }
dl div { padding: 0.75rem; border-radius: 0.5rem; background: var(--raised); }
dt { color: var(--quiet); } dd { margin: 0; } dd strong { font-size: 1.5rem; white-space: nowrap; }
table { width: 100%; border-collapse: collapse; }
caption { padding: 0.5rem 0; text-align: left; color: var(--quiet); }
th, td { padding: 0.4rem 0.5rem 0.4rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th[scope=row] { font-weight: 600; } th small { display: block; font-weight: normal; }
tbody th[scope=rowgroup] { padding-top: 1rem; }
.number { padding-right: 0; text-align: right; font-variant-numeric: tabular-nums; }
.number b, .error, .unit, .floor { white-space: nowrap; } .unit, .floor { display: block; font-size: 0.85em; }
.names th[scope=row], .names td { width: 50%; } .sums th[scope=row] { width: 34%; }
.wide { overflow-x: auto; } .wide th, .wide td { padding-left: 0.75rem; white-space: nowrap; }
code { font: 0.85em ui-monospace, monospace; }
.note { padding: 0.75rem; border-left: 0.25rem solid #d55e00; background: var(--raised); }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; padding: 0.5rem; border-radius: 0.5rem; background: #fff; }
figcaption { margin-top: 0.5rem; max-width: 45rem; }
"""

TEMPLATE = (
    """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
"""
    + STYLE
    + """\
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p>{{ caption }}</p>
</header>
<nav aria-label="Contents">
<ul>
<li><a href="#summary">In short</a></li>
{% for section in sections %}
<li><a href="#{{ section.group.key }}">{{ section.group.title }}</a></li>
{% endfor %}
<li><a href="#settings">Settings</a></li>
<li><a href="#provenance">Provenance</a></li>
</ul>
</nav>
<main>
<section aria-labelledby="summary">
<h2 id="summary">In short</h2>
{% if relaxed %}
<p class="note">The pixels are grey-scale and their loss is a cross-entropy, which is no likelihood. Metrics marked as
relaxed can be compared with each other and with no published log-likelihood.</p>
{% endif %}
<dl>
{% for row in headline %}
<div><dt>{{ row.measure.name }}{{ " (relaxed)" if row.relaxed }}</dt>
<dd><strong>{{ row.value }}</strong>{% if row.error %} <span class="error">± {{ row.error }}</span>{% endif %}
<span class="unit">{{ row.measure.unit }}</span></dd></div>
{% endfor %}
</dl>
</section>
{% for section in sections %}
<section aria-labelledby="{{ section.group.key }}">
<h2 id="{{ section.group.key }}">{{ section.group.title }}</h2>
<p>{{ section.group.introduction }}</p>
{% if section.rows %}
<table>
<caption>Metrics{{ ", with their standard error over images" if section.has_errors }}</caption>
<thead><tr><th scope="col">Measure</th><th scope="col" class="number">Value</th></tr></thead>
<tbody>
{% for row in section.rows %}
<tr><th scope="row">{{ row.measure.name }}{{ ", relaxed: no likelihood" if row.relaxed }}
{% if row.measure.meaning %}
<small>{{ row.measure.meaning }}</small> <small><code>{{ row.key }}</code></small>
{% endif %}
</th>
<td class="number"><b>{{ row.value }}</b>{% if row.error %} <span class="error">± {{ row.error }}</span>{% endif %}
{% if row.measure.unit %}
<span class="unit">{{ row.measure.unit }}</span>
{% endif %}
{% if row.floor %}
<span class="floor">real images: {{ row.floor }}</span>
{% endif %}
</td></tr>
{% endfor %}
</tbody>
</table>
{% endif %}
{% if section.group.key == "reconstruction" %}
<h3 id="by-class">By class</h3>
<p id="by-class-note">Means over each class's test images; NLL, ELBO and distortion in nats\
{{ ", relaxed: no likelihood" if relaxed }}.</p>
<div class="wide" role="region" aria-labelledby="by-class" tabindex="0">
<table aria-labelledby="by-class" aria-describedby="by-class-note">
<thead><tr>{% for name in by_class[0] %}<th scope="col"{{ ' class="number"' | safe if not loop.first }}>{{ name }}</th>\
{% endfor %}</tr></thead>
<tbody>
{% for line in by_class[1:] %}
<tr><th scope="row">{{ line[0] }}</th>{% for cell in line[1:] %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% for shown in section.pictures %}
<h3>{{ shown.picture.title }}</h3>
<figure>
<img src="{{ shown.uri }}" width="{{ shown.width }}" height="{{ shown.height }}" alt="{{ shown.picture.shows }}">
{% if shown.picture.look %}
<figcaption>{{ shown.picture.look }}</figcaption>
{% endif %}
</figure>
{% endfor %}
</section>
{% endfor %}
<section aria-labelledby="settings">
<h2 id="settings">Settings</h2>
<table class="names">
<caption>The values in params.yaml</caption>
<thead><tr><th scope="col">Key</th><th scope="col">Value</th></tr></thead>
{% for section, values in settings.items() %}
<tbody>
<tr><th scope="rowgroup" colspan="2">{{ section }}</th></tr>
{% for key, value in values.items() %}
<tr><th scope="row"><code>{{ key }}</code></th><td><code>\
{{ value }}</code></td></tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</section>
<section aria-labelledby="provenance">
<h2 id="provenance">Provenance</h2>
<p>Equal data, code, settings, versions and machine give this page byte for byte.</p>
{% for heading, values in provenance.items() %}
<h3>{{ heading }}</h3>
<table class="sums">
<thead><tr><th scope="col">What</th><th scope="col">Value</th></tr></thead>
<tbody>
{% for name, value in values.items() %}
<tr><th scope="row">{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
</section>
</main>
</body>
</html>
"""
)
