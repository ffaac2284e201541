// The list of inputs and the charts of the chosen one.

// Things that are drawn for a width or a colour scheme, drawn again when those
// change. An entry lives until its node has left the page.
const redraws = {
  entries: [],
  add(node, draw) {
    this.entries.push({ node, draw, placed: false });
  },
  run() {
    this.entries = this.entries.filter(({ node, placed }) => node.isConnected || !placed);
    for (const entry of this.entries) {
      entry.placed = entry.node.isConnected;
      if (entry.placed) entry.draw();
    }
  },
};

// Redraws a chart that is built anew for each width.
function chartSlot(build) {
  const slot = element('div', { class: 'chart' });
  redraws.add(slot, () => slot.replaceChildren(build(slot.clientWidth)));
  return slot;
}

// One input as its charts share it.
class Panel {
  constructor(data) {
    this.data = data;
    this.modes = (data.modes || []).map((mode) => ({
      ...mode,
      kl: { ...mode.kl, values: unpack(mode.kl.values), errors: mode.kl.errors && unpack(mode.kl.errors) },
      noise: mode.noise && { ...mode.noise, noises: unpack(mode.noise.noises), bounds: unpack(mode.noise.bounds) },
    }));
    this.byNoise = this.modes.some((mode) => mode.noise);
    this.klName = this.modes.some((mode) => mode.kl.errors) ? 'KL' : 'KL (lower bound)';
    this.tokens = data.tokens && {
      ...data.tokens, margins: unpack(data.tokens.margins), ulps: unpack(data.tokens.ulps),
    };
    this.followers = [];
  }

  // The largest gap that is no hard flip.
  tolerance(index, mode) {
    const ulp = this.tokens.ulps[index];
    const bound = mode.noise ? mode.noise.bounds[index] : NaN;
    return Number.isNaN(bound) ? ulp * this.data.near_tie_ulps : Math.max(ulp, bound);
  }

  point(index) {
    for (const follow of this.followers) follow(index);
  }

  // [title, lines] for details.show().
  describe(index, mode) {
    const title = `token ${index} · ${index === 0 ? 'prefill' : `step ${index - 1}`} · ${mode.mode}`;
    const letter = mode.letters[index] || 'u';
    if (letter === 'u') return [title, [['class', CLASSES.u.name]]];
    return [title, this.tokenLines(index, mode, letter)];
  }

  tokenLines(index, mode, letter) {
    const { ids, texts, margins, ulps } = this.tokens;
    const ulp = ulps[index];
    const inUlps = (value) => (ulp > 0 && value !== 0 && Number.isFinite(value) ? ` = ${shown(value / ulp)} ulp` : '');
    const lines = [['recorded', `${quoted(texts[index])} (id ${ids[index]})`]];
    const mismatch = mode.mismatches[index];
    if (mismatch) {
      const [id, text, gap] = mismatch;
      lines.push(['predicted', id < 0 ? 'no finite logit' : `${quoted(text)} (id ${id})`]);
      lines.push(['gap', gap]);
    }
    const overlap = mode.top5 && mode.top5[index] !== undefined ? mode.top5[index] : 1;
    lines.push(
      ['class', CLASSES[letter].name],
      ['margin', shown(margins[index]) + inUlps(margins[index])],
      ['ulp', shown(ulp)]);
    if (mode.noise) lines.push(['noise', shown(mode.noise.noises[index])]);
    lines.push(
      [this.klName, this.klText(index, mode)],
      ['top-5 in common', shownRate(overlap)]);
    return lines;
  }

  // "0.0012 ± 0.0001 nats".
  klText(index, { kl }) {
    const value = kl.values[index];
    if (Number.isNaN(value)) return shown(value);
    const error = kl.errors && kl.errors[index] > 0 ? ` ± ${shown(kl.errors[index])}` : '';
    const unreliable = kl.unreliable && kl.unreliable.includes(index) ? ', few ids in the tail' : '';
    return `${shown(value)}${error} nats${unreliable}`;
  }
}

function factList(facts) {
  const list = element('dl', { class: 'facts' });
  for (const [name, value] of facts) list.append(element('dt', {}, name), element('dd', {}, value));
  return list;
}

// The recorded text with the mismatching tokens marked in place, as the mode saw them.
function markedText(panel, mode) {
  const text = element('pre', { class: 'generated' });
  panel.tokens.texts.forEach((token, index) => {
    const letter = mode.letters[index] || 'u';
    const mismatch = mode.mismatches[index];
    if (!mismatch) {
      text.append(letter === 'u' ? element('span', { class: 'parted' }, token) : token);
      return;
    }
    const predicted = mismatch[0] < 0 ? 'no finite logit' : mismatch[1];
    text.append(element('span', { class: `mismatch ${CLASSES[letter].style}`, title: CLASSES[letter].name },
      element('del', {}, token), element('ins', {}, predicted)));
  });
  return text;
}

function mismatchRows(panel) {
  const rows = [];
  for (const mode of panel.modes) {
    for (const index of Object.keys(mode.mismatches).map(Number)) {
      const letter = mode.letters[index];
      const lines = Object.fromEntries(panel.tokenLines(index, mode, letter));
      rows.push(element('tr', {}, element('td', {}, mode.mode),
        element('td', { class: 'number' }, String(index)),
        element('td', { class: 'class' }, svg('svg', { width: 12, height: 12, 'aria-hidden': 'true' }, stripSymbol(letter, 0, 0)),
          ` ${CLASSES[letter].name.split(':')[0]}`),
        ...['recorded', 'predicted'].map((name) => element('td', { class: 'token' }, lines[name])),
        element('td', { class: 'number' }, lines.margin), element('td', {}, lines.gap),
        element('td', { class: 'number' }, lines[panel.klName])));
    }
  }
  return rows;
}

function mismatchTable(panel) {
  const most = 200;
  const rows = mismatchRows(panel);
  if (rows.length === 0) return element('p', { class: 'quiet' }, 'Every compared token matches.');
  const head = element('tr', {}, ...['Mode', 'Token', 'Class', 'Recorded', 'Predicted', 'Margin', 'Gap', panel.klName]
    .map((name) => element('th', ['Token', 'Margin', panel.klName].includes(name) ? { class: 'number' } : {}, name)));
  const table = element('div', { class: 'scroll list' },
    element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows.slice(0, most))));
  return rows.length <= most ? table
    : element('div', {}, table, element('p', { class: 'quiet' }, `… and ${rows.length - most} more.`));
}

function toleranceText(panel) {
  if (!panel.byNoise) return `tolerance of a near-tie: ${shown(panel.data.near_tie_ulps)} ulp`;
  const { z } = panel.modes.find((mode) => mode.noise).noise;
  return `what noise explains: ${shown(z)} standard deviations of a difference`;
}

function addTokenCharts(parent, panel) {
  const letters = [...'emtonhxu'].filter((letter) => panel.modes.some((mode) => mode.letters.includes(letter)));
  parent.append(element('h4', {}, 'Match strip'), stripLegend(letters),
    chartSlot((width) => {
      panel.followers = [];
      return drawStrip(panel, width);
    }));
  parent.append(element('h4', {}, 'Margin of the recorded token'),
    lineLegend([['margin', 'match'], ['ulp', '1 ulp'],
      [panel.byNoise ? 'tolerance noise' : 'tolerance', toleranceText(panel)]]),
    chartSlot((width) => drawMargins(panel, width)));
  parent.append(element('h4', {}, panel.klName === 'KL' ? 'KL divergence (nats)' : 'KL divergence (lower bound, nats)'),
    panel.modes.some((mode) => mode.kl.values.some((kl) => kl > 0))
      ? lineLegend(panel.modes.map((mode) => [`mode-${mode.mode}`, mode.mode])) : '',
    chartSlot((width) => drawKl(panel, width)));
}

function addTexts(parent, panel) {
  const { data } = panel;
  for (const mode of panel.modes) {
    const own = mode.own_text
      ? element('details', {}, element('summary', {}, 'What the device wrote after its context parted'),
        element('pre', { class: 'generated' }, mode.own_text))
      : null;
    parent.append(element('details', mode === panel.modes[0] ? { open: '' } : {},
      element('summary', {}, `Generated text, ${mode.mode}: mismatches as recorded, then predicted`),
      markedText(panel, mode), own));
  }
  if (data.generated) {
    parent.append(element('details', { open: '' }, element('summary', {}, 'Generated text'),
      element('pre', { class: 'generated' }, data.generated)));
  }
}

function kvNotes(panel) {
  const notes = [];
  if (!panel.data.has_prompt_kv) notes.push('The reference holds no K/V: everything ran on this device\'s own.');
  else if (panel.modes.some((mode) => mode.own_kv)) {
    notes.push('The reference holds no K/V after the prompt: its steps ran on this device\'s own.');
  }
  return notes.map((note) => element('p', { class: 'notice' }, note));
}

function addKv(parent, panel) {
  parent.append(element('h4', {}, 'K/V error by layer and position'), ...kvNotes(panel));
  const group = heatmapGroup([['prompt', panel.data.prefill],
    ...panel.modes.map((mode) => [`steps, ${mode.mode}`, mode.steps])]);
  parent.append(group || element('p', { class: 'quiet' }, 'No K/V was compared for this input.'));
}

function inputPanel(data) {
  const panel = new Panel(data);
  const article = element('article', { id: 'input' });
  article.append(element('h3', { tabindex: '-1' }, data.name),
    factList([['prompt', counted(data.prompt_length, 'token')], ...data.facts]),
    element('details', { open: '' }, element('summary', {}, 'Prompt'), element('pre', { class: 'prompt' }, data.prompt)));
  const compared = panel.tokens && panel.tokens.ids.length > 0;
  if (compared) addTokenCharts(article, panel);
  addTexts(article, panel);
  if (compared) article.append(element('h4', {}, 'Mismatches'), mismatchTable(panel));
  if (panel.modes.length > 0) addKv(article, panel);
  return article;
}

// Worst first: hard flips and NaN, near-ties, noise flips, ties, then KL.
function bySeverity(a, b) {
  const key = (line) => (line.counts ? [line.counts[3] + line.counts[4], line.counts[2], line.counts[1], line.counts[0], line.kl || 0] : [0, 0, 0, 0, 0]);
  const [left, right] = [key(a), key(b)];
  const at = left.findIndex((value, i) => value !== right[i]);
  return at < 0 ? 0 : right[at] - left[at];
}

const STRIP_COLORS = {
  light: { e: '#d5dde6', m: '#a9bccf', t: '#56b4e9', o: '#009e73', n: '#e69f00', h: '#b2182b', x: '#111111', u: '#ffffff' },
  dark: { e: '#2c3946', m: '#4a6178', t: '#56b4e9', o: '#2fbf93', n: '#e69f00', h: '#ff5c5c', x: '#ffffff', u: '#161b22' },
};

function smallStrip(line) {
  const canvas = element('canvas', { class: 'small-strip', 'aria-hidden': 'true' });
  redraws.add(canvas, () => {
    const colors = STRIP_COLORS[scheme.dark ? 'dark' : 'light'];
    const [width, height] = [Math.max(...line.strips.map((strip) => strip.length)) * 2, line.strips.length * 7];
    canvas.width = width * 2;
    canvas.height = height * 2;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext('2d');
    pen.scale(2, 2);
    line.strips.forEach((strip, row) => [...strip].forEach((letter, column) => {
      pen.fillStyle = colors[letter];
      pen.fillRect(column * 2, row * 7, 2, 6);
    }));
  });
  return canvas;
}

// The columns of line.counts that some input can have: ties, noise, near-ties, hard flips, NaN.
function countColumns(lines) {
  const compared = lines.filter((line) => line.counts);
  const some = (column) => compared.some((line) => line.counts[column] > 0);
  return [['Ties', true], ['Noise', compared.some((line) => line.by_noise) || some(1)],
    ['Near', compared.some((line) => !line.by_noise) || some(2)], ['Hard', true], ['NaN', true]]
    .map(([name, wanted], column) => ({ name, wanted, column })).filter(({ wanted }) => wanted);
}

function inputRow(line, index, several, columns) {
  const link = element('a', { href: `#${line.anchor}` }, line.name);
  const name = element('td', {}, link, several ? element('div', { class: 'quiet' }, line.model) : null);
  if (!line.strips) return element('tr', { 'data-input': index }, name);
  const first = line.first.filter((at) => at !== null);
  const kl = `${line.kl_estimated || !(line.kl > 0) ? '' : '≥ '}${shown(line.kl)}`;
  const cells = [line.tokens, ...columns.map(({ column }) => line.counts[column]),
    first.length > 0 ? Math.min(...first) : 'none',
    line.bitwise ? 'bitwise' : kl, line.bitwise ? '=' : shown(line.key), line.bitwise ? '=' : shown(line.value)];
  return element('tr', { 'data-input': index }, name, element('td', {}, smallStrip(line)),
    ...cells.map((cell) => element('td', { class: 'number' }, String(cell))));
}

class InputList {
  constructor(lines, choose) {
    this.lines = lines.map((line, index) => ({ ...line, index })).sort(bySeverity);
    this.filter = element('input', { type: 'search', placeholder: 'filter by name', 'aria-label': 'filter inputs by name' });
    this.only = element('input', { type: 'checkbox', id: 'only-mismatches' });
    this.count = element('span', { class: 'quiet' });
    this.body = element('tbody');
    const columns = countColumns(lines);
    const names = ['Input', 'Match strip', 'Tokens', ...columns.map(({ name }) => name), 'First', 'KL', 'K rel. L2', 'V rel. L2'];
    const head = element('tr', {}, ...names.map((name, i) => element('th', i > 1 ? { class: 'number' } : {}, name)));
    this.element = element('div', {},
      element('div', { class: 'controls' }, this.filter,
        element('label', {}, this.only, ' with mismatches only'), this.count),
      element('div', { class: 'scroll list' }, element('table', { class: 'inputs' }, element('thead', {}, head), this.body)));
    const several = new Set(lines.map((line) => line.model)).size > 1;
    this.rows = this.lines.map((line) => inputRow(line, line.index, several, columns));
    this.filter.addEventListener('input', () => this.show());
    this.only.addEventListener('change', () => this.show());
    this.body.addEventListener('click', (event) => {
      const row = event.target.closest('tr');
      if (row && !event.target.closest('a')) choose(Number(row.dataset.input));
    });
    this.body.append(...this.rows);
    this.show();
  }

  show() {
    let wanted = 0;
    this.rows.forEach((row, i) => {
      const line = this.lines[i];
      const mismatches = !line.counts || line.counts.some((count) => count > 0);
      row.hidden = !line.name.includes(this.filter.value.trim()) || (this.only.checked && !mismatches);
      wanted += row.hidden ? 0 : 1;
    });
    this.count.textContent = `${wanted} of ${counted(this.rows.length, 'input')}, worst first`;
  }

  mark(index) {
    for (const row of this.rows) {
      row.toggleAttribute('aria-current', Number(row.dataset.input) === index);
    }
  }
}

