// `crypto`: random values from the session's generator. Digests and ciphers are not here.

const { codeError, unavailable } = require('errors');
const { Buffer } = require('buffer');

const QUOTA_BYTES = 65536;
const MAX_RANDOM_BYTES = 2 ** 31 - 1;

function getRandomValues(array) {
  if (
    !ArrayBuffer.isView(array) ||
    array instanceof DataView ||
    array instanceof Float32Array ||
    array instanceof Float64Array
  ) {
    throw new DOMException('The data argument must be an integer-type TypedArray', 'TypeMismatchError');
  }
  if (array.byteLength > QUOTA_BYTES)
    throw new DOMException(`The requested length exceeds ${QUOTA_BYTES} bytes`, 'QuotaExceededError');
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength).set(host.randomBytes(array.byteLength));
  return array;
}

function randomUUID() {
  const bytes = host.randomBytes(16);
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

function randomBytes(size, callback) {
  if (!Number.isInteger(size) || size < 0 || size > MAX_RANDOM_BYTES) {
    throw codeError(RangeError, 'ERR_OUT_OF_RANGE', `The value of "size" is out of range. Received ${size}`);
  }
  const bytes = Buffer.from(host.randomBytes(size).buffer);
  if (callback) queueMicrotask(() => callback(null, bytes));
  return callback ? undefined : bytes;
}

function randomInt(low, high) {
  const [from, to] = high === undefined ? [0, low] : [low, high];
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to) || to <= from) {
    throw codeError(RangeError, 'ERR_OUT_OF_RANGE', 'The range must be of safe integers, the first below the second');
  }
  return from + Math.floor(host.random() * (to - from));
}

const missing = (name) => () => {
  throw unavailable(`crypto.${name}`);
};

const webcrypto = {
  getRandomValues,
  randomUUID,
  get subtle() {
    throw unavailable('crypto.subtle');
  },
};

module.exports = {
  webcrypto,
  node: {
    webcrypto,
    getRandomValues,
    randomUUID,
    randomBytes,
    randomInt,
    createHash: missing('createHash'),
    createHmac: missing('createHmac'),
    createCipheriv: missing('createCipheriv'),
    pbkdf2Sync: missing('pbkdf2Sync'),
    scryptSync: missing('scryptSync'),
    generateKeyPairSync: missing('generateKeyPairSync'),
  },
};
