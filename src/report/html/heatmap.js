// K/V error as layer x position and layer x head heatmaps, on canvas.
// ColorBrewer YlGnBu: distinct for every kind of colour vision and in grey.
const HEAT_COLORS = ['#ffffd9', '#edf8b1', '#c7e9b4', '#7fcdbb', '#41b6c4', '#1d91c0', '#225ea8',
  '#253494', '#081d58'].map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
const FIGURES_PER_CELL = 6;

const scheme = {
  darkQuery: window.matchMedia('(prefers-color-scheme: dark)'),
  printQuery: window.matchMedia('print'),
  get dark() {
    return this.darkQuery.matches && !this.printQuery.matches;
  },
  // Surfaces and marks of the canvas; the rest of the page uses report.css.
  get colors() {
    return this.dark
      ? { equal: '#2a323c', dot: '#76818f', missing: '#1a2028', ink: '#c3ccd6', bad: '#ff6db6',
          badInk: '#000000', ring: '#ff9d4d', halo: '#000000', cursor: '#ffffff' }
      : { equal: '#e8ebef', dot: '#8b95a1', missing: '#f7f8fa', ink: '#434c58', bad: '#c2185b',
          badInk: '#ffffff', ring: '#e65100', halo: '#ffffff', cursor: '#000000' };
  },
};

// Low errors recede into the page: light on light, dark on dark.
function heatColor(fraction) {
  const position = (scheme.dark ? 1 - fraction : fraction) * (HEAT_COLORS.length - 1);
  const low = Math.min(HEAT_COLORS.length - 2, Math.floor(position));
  const mixed = HEAT_COLORS[low].map((channel, i) =>
    Math.round(channel + (HEAT_COLORS[low + 1][i] - channel) * (position - low)));
  return `rgb(${mixed.join(' ')})`;
}

// The cells of one kind of one profile (profile_data.cc).
class Cells {
  constructor(profile, kind) {
    this.profile = profile;
    this.kind = kind;
    const { states, figures, nonfinite } = profile[kind];
    const count = profile.rows * profile.columns;
    this.states = states.length === 1 ? states.repeat(count) : states;
    this.figures = unpack(figures);
    this.nonfinite = nonfinite || {};
    this.floors = unpack(profile.floor);
    this.places = new Int32Array(count);
    let next = 0;
    for (let i = 0; i < count; ++i) {
      this.places[i] = '~!'.includes(this.states[i]) ? next++ : -1;
    }
  }

  figure(cell, which) {
    return this.figures[this.places[cell] * FIGURES_PER_CELL + which];
  }

  errors() {
    const errors = [];
    for (let i = 0; i < this.states.length; ++i) {
      if (this.states[i] === '~') errors.push(this.figure(i, 0));
    }
    return errors;
  }

  columnName(column) {
    const { axis, width, positions, first } = this.profile;
    if (axis === 'head') return `KV head ${column}`;
    const begin = column * width;
    const end = Math.min(begin + width, positions) - 1;
    return begin === end ? `position ${first + begin}` : `positions ${first + begin}–${first + end}`;
  }

  describe(row, column) {
    const cell = row * this.profile.columns + column;
    const title = `${this.kind === 'key' ? 'K' : 'V'} · layer ${row} · ${this.columnName(column)}`;
    switch (this.states[cell]) {
      case '=': return [title, [['error', 'bitwise equal']]];
      case '.': return [title, [['error', 'not measured']]];
      default: return [title, this.lines(cell, row)];
    }
  }

  lines(cell, row) {
    const [l2, max, distance, scale, ulps, differing] =
      [0, 1, 2, 3, 4, 5].map((which) => this.figure(cell, which));
    const floor = this.floors[row];
    const lines = [
      ['relative L2', shown(l2) + (floor > 0 ? ` = ${shown(l2 / floor)} × rounding floor` : '')],
      ['relative max', shown(max)],
      ['1 − cosine', shown(Math.max(0, distance))],
      ['scale error', shown(scale)],
      ['ulp distance p99', shown(ulps)],
      ['elements differing', shownRate(differing)],
    ];
    if (this.nonfinite[cell]) lines.unshift(['NaN or Inf', counted(this.nonfinite[cell], 'element')]);
    return lines;
  }
}

class Heatmap {
  constructor(cells, scale, title) {
    this.cells = cells;
    this.scale = scale;
    this.cursor = null;
    this.canvas = element('canvas', {
      class: 'heatmap', role: 'group', 'aria-label': `${title}; arrow keys move`,
    });
    this.element = element('figure', {}, element('figcaption', {}, title), this.canvas);
    explorable(this.canvas, {
      hit: (event) => this.hit(event),
      move: (step) => this.moved(step),
      show: (target, point) => this.show(target, point),
      clear: () => {
        this.cursor = null;
        this.draw();
      },
    });
  }

  resize(width) {
    const { rows, columns } = this.cells.profile;
    this.left = 30;
    this.bottom = 20;
    this.cellWidth = Math.max(3, Math.min(56, (width - this.left - 6) / columns));
    this.cellHeight = Math.max(5, Math.min(22, Math.round(300 / rows)));
    this.width = Math.ceil(this.left + columns * this.cellWidth + 6);
    this.height = rows * this.cellHeight + this.bottom;
    this.draw();
  }

  hit(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.left) / this.cellWidth);
    const row = Math.floor((event.clientY - box.top) / this.cellHeight);
    const { rows, columns } = this.cells.profile;
    return column >= 0 && column < columns && row >= 0 && row < rows ? [row, column] : null;
  }

  moved([dx, dy]) {
    const { rows, columns } = this.cells.profile;
    const [row, column] = this.cursor || [0, -Math.sign(dx)];
    return [Math.min(rows - 1, Math.max(0, row + dy)), Math.min(columns - 1, Math.max(0, column + dx))];
  }

  show(target, point) {
    this.cursor = target;
    this.draw();
    const box = this.canvas.getBoundingClientRect();
    details.show(...this.cells.describe(...target), ...(point ||
      [box.left + this.left + (target[1] + 1) * this.cellWidth, box.top + (target[0] + 1) * this.cellHeight]));
  }

  draw() {
    const ratio = Math.max(2, window.devicePixelRatio || 1);
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.pen = this.canvas.getContext('2d');
    this.pen.scale(ratio, ratio);
    const { rows, columns } = this.cells.profile;
    for (let row = 0; row < rows; ++row) {
      for (let column = 0; column < columns; ++column) this.drawCell(row, column);
    }
    this.drawAxes();
    this.drawDeparture();
    if (this.cursor) this.outline(...this.cursor, 1, scheme.colors.cursor, 2);
  }

  box(row, column) {
    return [this.left + column * this.cellWidth, row * this.cellHeight];
  }

  drawCell(row, column) {
    const cell = row * this.cells.profile.columns + column;
    const state = this.cells.states[cell];
    const [x, y] = this.box(row, column);
    const [width, height] = [this.cellWidth - (this.cellWidth > 6 ? 1 : 0), this.cellHeight - 1];
    const colors = scheme.colors;
    this.pen.fillStyle = { '=': colors.equal, '.': colors.missing, '!': colors.bad }[state] ||
      heatColor(this.scale.fraction(this.cells.figure(cell, 0)));
    this.pen.fillRect(x, y, width, height);
    if (state === '=') this.drawDot(x + width / 2, y + height / 2);
    if (state === '!') this.drawCross(x + width / 2, y + height / 2);
  }

  drawDot(x, y) {
    this.pen.fillStyle = scheme.colors.dot;
    this.pen.fillRect(x - 0.75, y - 0.75, 1.5, 1.5);
  }

  drawCross(x, y) {
    const size = Math.min(this.cellWidth, this.cellHeight) / 4;
    this.pen.strokeStyle = scheme.colors.badInk;
    this.pen.lineWidth = 1;
    this.pen.beginPath();
    this.pen.moveTo(x - size, y - size);
    this.pen.lineTo(x + size, y + size);
    this.pen.moveTo(x + size, y - size);
    this.pen.lineTo(x - size, y + size);
    this.pen.stroke();
  }

  drawAxes() {
    const { rows, columns, axis, width, first } = this.cells.profile;
    this.pen.fillStyle = scheme.colors.ink;
    this.pen.font = '11px system-ui, sans-serif';
    this.pen.textBaseline = 'middle';
    this.pen.textAlign = 'right';
    const stride = [1, 2, 4, 5, 10, 20, 50, 100].find((k) => k * this.cellHeight >= 16) || 500;
    for (let row = 0; row < rows; row += stride) {
      this.pen.fillText(String(row), this.left - 5, (row + 0.5) * this.cellHeight);
    }
    this.pen.textBaseline = 'top';
    const every = Math.max(1, Math.ceil(38 / this.cellWidth));
    for (let column = 0; column < columns; column += every) {
      const centered = axis === 'head';
      this.pen.textAlign = centered ? 'center' : 'left';
      this.pen.fillText(centered ? String(column) : String(first + column * width),
        this.left + (column + (centered ? 0.5 : 0)) * this.cellWidth, rows * this.cellHeight + 5);
    }
  }

  drawDeparture() {
    const departure = this.cells.profile.departure;
    if (!departure || departure.kind !== this.cells.kind) return;
    const { columns, width } = this.cells.profile;
    const column = departure.whole_layer ? 0 : Math.floor(departure.position / width);
    const span = departure.whole_layer ? columns : 1;
    this.outline(departure.layer, column, span, scheme.colors.halo, 5);
    this.outline(departure.layer, column, span, scheme.colors.ring, 2.5);
  }

  outline(row, column, span, color, lineWidth) {
    const [x, y] = this.box(row, column);
    this.pen.strokeStyle = color;
    this.pen.lineWidth = lineWidth;
    this.pen.strokeRect(x - 0.5, y - 0.5, span * this.cellWidth, this.cellHeight);
  }
}

function departureSentence(profile) {
  const departure = profile.departure;
  if (!departure) return null;
  const place = departure.whole_layer ? 'the whole layer' : `position ${(profile.first || 0) + departure.position}`;
  return `Error leaves the profile of the others at ${departure.kind === 'key' ? 'K' : 'V'}, layer ` +
    `${departure.layer}, ${place}: ${departure.figure} ${shown(departure.measured)} against ` +
    `${shown(departure.typical)} elsewhere.`;
}

// The colour scale with its decades, and what the cells without colour mean.
class HeatLegend {
  // states: those of '=', '!', '.' and 'o' (a departure) that occur.
  constructor(scale, states) {
    this.scale = scale;
    this.states = [...states];
    this.canvas = element('canvas', { class: 'heat-scale', 'aria-label': 'colour scale of relative L2' });
    this.swatches = this.states.map(() => element('canvas', { width: 24, height: 24 }));
    const names = { '=': 'bitwise equal', '!': 'NaN or Inf', '.': 'not measured', o: 'error begins here' };
    const list = element('ul', { class: 'legend' });
    if (!scale.empty) list.append(element('li', {}, 'relative L2', this.canvas));
    this.swatches.forEach((swatch, i) => list.append(element('li', {}, swatch, names[this.states[i]])));
    this.element = list;
  }

  resize() {
    if (!this.scale.empty) this.drawScale();
    this.swatches.forEach((swatch, i) => this.drawSwatch(swatch, this.states[i]));
  }

  drawScale() {
    const [width, height, margin] = [240, 30, 20];
    this.canvas.width = width * 2;
    this.canvas.height = height * 2;
    const pen = this.canvas.getContext('2d');
    pen.scale(2, 2);
    for (let x = 0; x < width - 2 * margin; ++x) {
      pen.fillStyle = heatColor(x / (width - 2 * margin));
      pen.fillRect(margin + x, 0, 1.5, 12);
    }
    pen.fillStyle = scheme.colors.ink;
    pen.font = '11px system-ui, sans-serif';
    pen.textAlign = 'center';
    pen.textBaseline = 'top';
    for (const exponent of this.scale.ticks(5)) {
      const x = margin + this.scale.fraction(10 ** exponent) * (width - 2 * margin);
      pen.fillRect(x - 0.5, 12, 1, 4);
      pen.fillText(powerOfTen(exponent), x, 18);
    }
  }

  drawSwatch(swatch, state) {
    const pen = swatch.getContext('2d');
    const colors = scheme.colors;
    swatch.width = 24;
    pen.scale(2, 2);
    pen.fillStyle = { '=': colors.equal, '!': colors.bad, '.': colors.missing, o: colors.equal }[state];
    pen.fillRect(0, 0, 12, 12);
    if (state === '=') {
      pen.fillStyle = colors.dot;
      pen.fillRect(5.25, 5.25, 1.5, 1.5);
    }
    pen.lineWidth = state === 'o' ? 2.5 : 1;
    pen.strokeStyle = { o: colors.ring, '!': colors.badInk, '.': colors.dot }[state] || 'transparent';
    if (state === '!') {
      pen.stroke(new Path2D('M3 3l6 6M9 3l-6 6'));
    } else {
      pen.strokeRect(1, 1, 10, 10);
    }
  }
}

// Heatmaps of several profiles on one colour scale, K above V.
// profiles: [title, profile] pairs. Null when nothing was measured.
function heatmapGroup(profiles) {
  const present = profiles.filter(([, profile]) => profile);
  if (present.length === 0) return null;
  const maps = ['key', 'value'].flatMap((kind) =>
    present.map(([title, profile]) => [`${kind === 'key' ? 'K' : 'V'} · ${title}`, new Cells(profile, kind)]));
  const scale = new LogScale(maps.flatMap(([, cells]) => cells.errors()), 8);
  const drawn = maps.map(([title, cells]) => new Heatmap(cells, scale, title));
  const marked = present.some(([, profile]) => profile.departure) ? 'o' : '';
  const states = [...'=!.'].filter((state) => maps.some(([, cells]) => cells.states.includes(state))).join('') + marked;
  const legend = new HeatLegend(scale, states);
  // One or two stretches leave room for V beside K.
  const columns = present.length <= 2 ? 2 * present.length : present.length;
  const grid = element('div', { class: 'heatmaps', style: `--columns:${columns}` },
    ...drawn.map((map) => map.element));
  const group = element('div', {}, legend.element, grid);
  if (states === '=' && scale.empty) group.prepend(element('p', {}, 'Every compared element of K and V is bitwise equal.'));
  for (const [title, profile] of present) {
    const sentence = departureSentence(profile);
    if (sentence) group.append(element('p', { class: 'departure' }, `${title}: ${sentence}`));
  }
  redraws.add(group, () => {
    legend.resize();
    for (const map of drawn) map.resize(map.element.clientWidth || 280);
  });
  return group;
}

