// `Buffer`: a Uint8Array that can be read and written as text. The part of Node's that programs use most.

const { codeError, invalidArgument } = require('errors');
const { bytesOf, encodeBase64, decodeBase64, fromBinaryString, toBinaryString } = require('encoding');
const { inspect } = require('inspect');

const latin1 = { encode: fromBinaryString, decode: toBinaryString };
const utf16 = {
  encode: (text) => new Uint8Array(Uint16Array.from(text.split(''), (unit) => unit.charCodeAt(0)).buffer),
  decode: (bytes) => toText(bytes.slice(0, bytes.length & ~1)),
};
const base64 = {
  encode: (text) =>
    decodeBase64(
      text
        .replace(/-/g, '+')
        .replace(/_/g, '/')
        .replace(/[^A-Za-z0-9+/]/g, ''),
    ) ?? new Uint8Array(0),
  decode: encodeBase64,
};
const codecs = {
  utf8: { encode: (text) => host.utf8Encode(text.toWellFormed()), decode: (bytes) => host.utf8Decode(bytes) },
  hex: {
    encode: parseHex,
    decode: (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(''),
  },
  base64,
  base64url: {
    ...base64,
    decode: (bytes) => encodeBase64(bytes).replace(/\+/g, '-').replace(/\//g, '_').replace(/=/g, ''),
  },
  latin1,
  binary: latin1,
  ascii: { encode: fromBinaryString, decode: (bytes) => toBinaryString(Uint8Array.from(bytes, (byte) => byte & 0x7f)) },
  utf16le: utf16,
  ucs2: utf16,
};

function toText(bytes) {
  const units = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  let text = '';
  for (const unit of units) text += String.fromCharCode(unit);
  return text;
}

function parseHex(text) {
  const digits = /^(?:[0-9a-f]{2})*/i.exec(text)[0];
  return Uint8Array.from({ length: digits.length / 2 }, (_, index) =>
    parseInt(digits.slice(2 * index, 2 * index + 2), 16),
  );
}

function codecOf(encoding = 'utf8') {
  const name = `${encoding}`.toLowerCase().replace(/^utf-/, 'utf').replace('ucs-2', 'ucs2');
  if (Object.hasOwn(codecs, name)) return codecs[name];
  throw codeError(TypeError, 'ERR_UNKNOWN_ENCODING', `Unknown encoding: ${encoding}`);
}

const wrap = (bytes) => new Buffer(bytes.buffer, bytes.byteOffset, bytes.byteLength);

class Buffer extends Uint8Array {
  static from(value, encoding, length) {
    if (typeof value === 'string') return wrap(codecOf(encoding).encode(value));
    if (value instanceof ArrayBuffer || value instanceof SharedArrayBuffer) return new Buffer(value, encoding, length);
    if (ArrayBuffer.isView(value)) return wrap(Uint8Array.from(value));
    if (value?.type === 'Buffer' && Array.isArray(value.data)) return wrap(Uint8Array.from(value.data));
    if (typeof value === 'object' && value !== null && typeof value.length === 'number')
      return wrap(Uint8Array.from(value));
    throw invalidArgument('first argument', 'of type string or an instance of Buffer, ArrayBuffer, or Array', value);
  }

  static alloc(size, fill, encoding) {
    const buffer = new Buffer(size);
    return fill === undefined ? buffer : buffer.fill(fill, 0, size, encoding);
  }

  static allocUnsafe(size) {
    return new Buffer(size);
  }

  static isBuffer(value) {
    return value instanceof Buffer;
  }

  static isEncoding(encoding) {
    return typeof encoding === 'string' && Object.hasOwn(codecs, encoding.toLowerCase().replace(/^utf-/, 'utf'));
  }

  static byteLength(value, encoding) {
    return typeof value === 'string' ? codecOf(encoding).encode(value).length : value.byteLength;
  }

  static concat(list, total = list.reduce((sum, part) => sum + part.length, 0)) {
    const buffer = new Buffer(total);
    let at = 0;
    for (const part of list) {
      buffer.set(part.subarray(0, total - at), at);
      at = Math.min(total, at + part.length);
    }
    return buffer;
  }

  static compare(a, b) {
    const length = Math.min(a.length, b.length);
    for (let index = 0; index < length; index += 1) if (a[index] !== b[index]) return a[index] < b[index] ? -1 : 1;
    return Math.sign(a.length - b.length);
  }

  toString(encoding, start = 0, end = this.length) {
    return codecOf(encoding).decode(new Uint8Array(this.buffer, this.byteOffset, this.length).subarray(start, end));
  }

  toJSON() {
    return { type: 'Buffer', data: Array.from(this) };
  }

  equals(other) {
    return Buffer.compare(this, other) === 0;
  }

  compare(other) {
    return Buffer.compare(this, other);
  }

  // Shares memory, unlike a typed array's `slice`.
  slice(start, end) {
    return this.subarray(start, end);
  }

  write(text, offset = 0, length = this.length - offset, encoding = 'utf8') {
    if (typeof offset === 'string') return this.write(text, 0, this.length, offset);
    if (typeof length === 'string') return this.write(text, offset, this.length - offset, length);
    const bytes = codecOf(encoding)
      .encode(text)
      .subarray(0, Math.min(length, this.length - offset));
    this.set(bytes, offset);
    return bytes.length;
  }

  fill(value, start = 0, end = this.length, encoding = 'utf8') {
    if (typeof value !== 'string') return super.fill(value, start, end);
    const bytes = codecOf(encoding).encode(value);
    for (let index = start; index < end; index += 1)
      this[index] = bytes.length > 0 ? bytes[(index - start) % bytes.length] : 0;
    return this;
  }

  indexOf(value, from = 0, encoding = 'utf8') {
    if (typeof value === 'number') return super.indexOf(value & 0xff, from);
    const wanted = typeof value === 'string' ? codecOf(encoding).encode(value) : value;
    for (let at = from; at + wanted.length <= this.length; at += 1)
      if (wanted.every((byte, index) => this[at + index] === byte)) return at;
    return -1;
  }

  includes(value, from, encoding) {
    return this.indexOf(value, from, encoding) !== -1;
  }

  copy(target, at = 0, start = 0, end = this.length) {
    const part = this.subarray(start, Math.min(end, start + target.length - at));
    target.set(part, at);
    return part.length;
  }

  [inspect.custom]() {
    const shown = Array.from(this.subarray(0, 50), (byte) => byte.toString(16).padStart(2, '0'));
    const left = this.length - shown.length;
    return `<Buffer${shown.map((byte) => ` ${byte}`).join('')}${left > 0 ? ` ... ${left} more byte${left > 1 ? 's' : ''}` : ''}>`;
  }
}

// readUInt8, writeInt32LE and the rest of that family, over one DataView call each.
function defineNumbers(name, type, size) {
  for (const [suffix, little] of size === 1
    ? [['', false]]
    : [
        ['LE', true],
        ['BE', false],
      ]) {
    const view = (buffer) => new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    define(`read${name}${suffix}`, function (offset = 0) {
      return view(this)[`get${type}`](offset, little);
    });
    define(`write${name}${suffix}`, function (value, offset = 0) {
      view(this)[`set${type}`](offset, value, little);
      return offset + size;
    });
  }
}

function define(name, value) {
  for (const alias of new Set([name, name.replace('UInt', 'Uint')])) {
    Object.defineProperty(Buffer.prototype, alias, { value, writable: true, configurable: true });
  }
}

defineNumbers('UInt8', 'Uint8', 1);
defineNumbers('Int8', 'Int8', 1);
defineNumbers('UInt16', 'Uint16', 2);
defineNumbers('Int16', 'Int16', 2);
defineNumbers('UInt32', 'Uint32', 4);
defineNumbers('Int32', 'Int32', 4);
defineNumbers('BigUInt64', 'BigUint64', 8);
defineNumbers('BigInt64', 'BigInt64', 8);
defineNumbers('Float', 'Float32', 4);
defineNumbers('Double', 'Float64', 8);

module.exports = { Buffer, bytesOf, codecOf };
