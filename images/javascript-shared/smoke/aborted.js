// Errors that are DOMExceptions.
//%%
AbortSignal.abort().throwIfAborted();
//%%
console.log([AbortSignal.abort().reason].length, String(AbortSignal.abort().reason)); AbortSignal.timeout(1).reason
//%%
const { signal } = new AbortController(); signal.onabort = () => console.log('no'); await require('timers/promises').setTimeout(5, 'in time', { signal })
//%%
atob('?')
