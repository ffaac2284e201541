'use strict';
// Reading packed numbers (packed_floats.h), showing numbers, making elements.
// Foreign text only ever becomes a text node or an attribute of an SVG or HTML
// element that cannot run anything; no text is ever parsed as markup.

const PACKED_ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const PACKED_VALUES = new Map([...PACKED_ALPHABET].map((letter, value) => [letter, value]));

function unpack(text) {
  const count = Math.floor((text || '').length / 3);
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; ++i) {
    const [a, b, c] = [0, 1, 2].map((k) => PACKED_VALUES.get(text[3 * i + k]));
    bits[i] = ((a << 12) | (b << 6) | c) << 14;
  }
  return new Float32Array(bits.buffer);
}

function shown(value) {
  if (value === null || value === undefined) return '–';
  if (Number.isNaN(value)) return 'unknown';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}

// Rounded down, so that 100 % means all.
function shownRate(value) {
  if (!Number.isFinite(value)) return shown(value);
  return value > 0 && value < 1e-4 ? '< 0.01 %' : `${Math.floor(value * 1e4) / 100} %`;
}

// A token on one line, its spaces visible by the quotes.
function quoted(text) {
  if (text === '') return '(first bytes of the next token\'s character)';
  return `"${text.replaceAll('\n', '\\n')}"`;
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return furnished(node, attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  return furnished(node, attributes, children);
}

function furnished(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A logarithmic axis over `values`; zeros have a lane of their own below it.
class LogScale {
  constructor(values, maxDecades = 9) {
    let low = Infinity;
    let high = 0;
    this.hasZero = false;
    for (const value of values) {
      if (value === 0) this.hasZero = true;
      if (!(value > 0) || !Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    this.empty = high === 0;
    this.high = this.empty ? 0 : Math.ceil(Math.log10(high) - 1e-6);
    this.low = this.empty ? -1 : Math.floor(Math.log10(low) + 1e-6);
    if (this.low >= this.high) this.low = this.high - 1;
    this.low = Math.max(this.low, this.high - maxDecades);
  }

  // 0 at the low end, 1 at the high end, clamped.
  fraction(value) {
    const position = (Math.log10(value) - this.low) / (this.high - this.low);
    return Math.min(1, Math.max(0, position));
  }

  ticks(most = 5) {
    const stride = Math.ceil((this.high - this.low) / most);
    const exponents = [];
    for (let e = this.high; e >= this.low; e -= stride) exponents.push(e);
    return exponents;
  }
}

const SUPERSCRIPTS = '⁰¹²³⁴⁵⁶⁷⁸⁹';
function powerOfTen(exponent) {
  if (exponent >= -2 && exponent <= 3) return String(Number((10 ** exponent).toPrecision(1)));
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[digit]).join('');
  return `10${exponent < 0 ? '⁻' : ''}${digits}`;
}

