// Puts the page together: the overview of each verdict, the list, one input.
const charts = document.getElementById('charts');
const overview = JSON.parse(document.getElementById('report-data').textContent);

// How far inputs get before their first mismatch, one row of bars for each mode.
function divergenceChart(divergence, tokens, width) {
  const bins = Math.min(24, Math.max(1, tokens));
  const counts = new Array(bins + 1).fill(0);
  for (const at of divergence.at) {
    counts[at === null ? bins : Math.min(bins - 1, Math.floor((at * bins) / tokens))] += 1;
  }
  const most = Math.max(...counts);
  const [height, left, never] = [96, 60, 76];
  const barWidth = (Math.min(width, 900) - left - never) / bins;
  const picture = svg('svg', { class: 'lines', width: Math.min(width, 900), height });
  const y = (count) => 68 - (count / most) * 56;
  counts.forEach((count, bin) => {
    const x = bin === bins ? left + bins * barWidth + 22 : left + bin * barWidth;
    const from = Math.ceil((bin * tokens) / bins);
    const to = Math.ceil(((bin + 1) * tokens) / bins) - 1;
    const label = bin === bins ? 'no mismatch' : `first mismatch at token ${from}${to > from ? `–${to}` : ''}`;
    const bar = svg('rect', {
      class: bin === bins ? 'bar never' : 'bar', x: x + 1, y: y(count), height: 68 - y(count),
      width: bin === bins ? 40 : Math.max(2, barWidth - 2), tabindex: '0',
      'aria-label': `${label}: ${counted(count, 'input')}`,
    });
    const show = (event) => details.show(label, [['inputs', String(count)]],
      event.clientX || bar.getBoundingClientRect().left, event.clientY || bar.getBoundingClientRect().top);
    for (const kind of ['pointermove', 'focus']) bar.addEventListener(kind, show);
    for (const kind of ['pointerleave', 'blur']) bar.addEventListener(kind, () => details.hide());
    picture.append(bar);
    if (count > 0) {
      picture.append(svg('text', { class: 'tick', x: x + (bin === bins ? 21 : barWidth / 2), y: y(count) - 3, 'text-anchor': 'middle' }, String(count)));
    }
  });
  picture.append(
    svg('line', { class: 'axis', x1: left, x2: left + bins * barWidth, y1: 68.5, y2: 68.5 }),
    svg('text', { class: 'tick', x: left - 8, y: 64, 'text-anchor': 'end' }, divergence.mode),
    svg('text', { class: 'tick', x: left, y: 84 }, 'token 0'),
    svg('text', { class: 'tick', x: left + bins * barWidth, y: 84, 'text-anchor': 'end' }, String(tokens - 1)),
    svg('text', { class: 'tick', x: left + bins * barWidth + 43, y: 84, 'text-anchor': 'middle' }, 'never'));
  return picture;
}

function verdictCharts(verdict, several) {
  const section = element('section', { class: 'card' });
  const name = several ? ` · ${verdict.model}, ${verdict.reference} → ${verdict.device}` : '';
  const inputs = verdict.divergences.length > 0 ? verdict.divergences[0].at.length : 0;
  section.append(element('h2', {}, `${inputs > 1 ? 'All inputs together' : 'Overview'}${name}`));
  if (inputs > 1) {
    const tokens = Math.max(...verdict.divergences.map((divergence) => divergence.tokens));
    section.append(element('h4', {}, 'First mismatch over the inputs'),
      ...verdict.divergences.map((divergence) => chartSlot((width) => divergenceChart(divergence, tokens, width))));
  }
  const title = (stretch) => (stretch.stretch === 'prefill' ? 'prompt' : `steps, ${stretch.stretch}`);
  const heads = heatmapGroup(verdict.stretches.map((stretch) => [title(stretch), stretch.heads]));
  section.append(element('h4', {}, 'K/V error by layer and KV head'),
    heads || element('p', { class: 'quiet' }, 'No K/V was compared.'));
  const blocks = inputs > 1 ? heatmapGroup(verdict.stretches.map((stretch) => [title(stretch), stretch.blocks])) : null;
  if (blocks) {
    section.append(element('h4', {}, 'K/V error by layer and position',
      element('span', { class: 'quiet' }, ' · step positions count from each prompt\'s end')), blocks);
  }
  return section;
}

// What stands behind '#': an input's anchor. Foreign names need not be well encoded.
function address() {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function inputSection(lines) {
  const section = element('section', { class: 'card' }, element('h2', {}, lines.length > 1 ? 'Inputs' : 'Input'));
  const place = element('div');
  let chosen = -1;
  const choose = (index, moved) => {
    if (index === chosen) return;
    chosen = index;
    // Inputs are parsed and drawn only when someone looks at them.
    const data = JSON.parse(document.getElementById(`input-${index}`).textContent);
    place.replaceChildren(inputPanel(data));
    list.mark(index);
    redraws.run();
    if (moved) place.scrollIntoView({ block: 'start' });
  };
  const list = new InputList(lines, (index) => choose(index, true));
  if (lines.length > 1) section.append(list.element);
  section.append(place);
  const followAddress = () => {
    const index = lines.findIndex((line) => line.anchor === address());
    if (index >= 0) choose(index, true);
    return index >= 0;
  };
  return { section, followAddress, start: () => followAddress() || choose(list.lines[0].index, false) };
}

function begin() {
  for (const verdict of overview.verdicts) {
    charts.append(verdictCharts(verdict, overview.verdicts.length > 1));
  }
  if (overview.inputs.length > 0) {
    const inputs = inputSection(overview.inputs);
    charts.append(inputs.section);
    inputs.start();
    window.addEventListener('hashchange', inputs.followAddress);
  }
  redraws.run();
}

let drawnWidth = document.documentElement.clientWidth;
window.addEventListener('resize', () => {
  if (document.documentElement.clientWidth === drawnWidth) return;
  drawnWidth = document.documentElement.clientWidth;
  requestAnimationFrame(() => redraws.run());
});
for (const query of [scheme.darkQuery, scheme.printQuery]) {
  query.addEventListener('change', () => redraws.run());
}
window.addEventListener('scroll', () => details.scrolled(), { passive: true });
begin();
