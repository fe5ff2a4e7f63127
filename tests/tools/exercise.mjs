// What every npm client does with every server; throws with the reason when something is not as it must be.
import assert from 'node:assert/strict';

const SHAPES = {
    ours: {
        tools: ['echo', 'add', 'count', 'wait', 'cancelled'],
        echo: ['echo', text => ({ text }), text => text],
        // Five steps, one each 100 ms.
        slow: ['count', { steps: 5, milliseconds: 100 }, 5],
        endless: ['wait', { milliseconds: 600_000 }],
    },
    everything: {
        tools: ['echo', 'get-sum', 'trigger-long-running-operation'],
        echo: ['echo', message => ({ message }), message => `Echo: ${message}`],
        slow: ['trigger-long-running-operation', { duration: 1, steps: 5 }, 5],
        endless: ['trigger-long-running-operation', { duration: 600, steps: 2 }],
    },
};

export async function exercise({ kind, stdio, session, transport, tools, call }) {
    const shape = SHAPES[kind];
    const names = await tools();
    for (const name of shape.tools) assert(names.includes(name), `tools/list lacks ${name}: ${names}`);
    assert.equal(transport.sessionId !== undefined, session, `session id: ${transport.sessionId}`);

    const [echo, input, output] = shape.echo;
    for (const length of [1, 1000, 100_000]) {
        const text = 'äx'.repeat(length);
        const answer = await call(echo, input(text));
        assert.equal(answer.content[0].text, output(text), `echo of ${length} pairs`);
    }

    // Progress comes while the call runs: whoever collects it would deliver all of it at the end.
    const [slow, slowInput, steps] = shape.slow;
    const seen = [];
    const answer = await call(slow, slowInput, {
        onprogress: progress => seen.push({ at: performance.now(), step: progress.progress }),
        resetTimeoutOnProgress: true,
    });
    assert(!answer.isError, JSON.stringify(answer));
    // Over standard input this SDK drops a step that is read together with the answer.
    const wanted = Array.from({ length: steps }, (_, at) => at + 1);
    const came = seen.map(event => event.step);
    assert.deepEqual(came, stdio ? wanted.slice(0, Math.max(came.length, steps - 1)) : wanted, 'steps of the progress');
    const spread = seen.at(-1).at - seen[0].at;
    assert(spread > 200, `progress came at once, within ${spread} ms`);

    await cancel(kind, shape, call);
    assert.equal((await call(echo, input('after'))).content[0].text, output('after'), 'a call after a cancelled one');
}

async function cancel(kind, shape, call) {
    const count = async () => Number((await call('cancelled', {})).content[0].text);
    const before = kind === 'ours' ? await count() : 0;
    const stop = new AbortController();
    const [name, input] = shape.endless;
    const outcome = call(name, input, { signal: stop.signal }).then(() => 'answered', () => 'refused');
    // The server must have the call before it can be told to drop it: any later answer on the same path says so.
    await call(...echoOf(shape));
    stop.abort('cancelled by the test');
    assert.equal(await outcome, 'refused', 'a cancelled call');
    if (kind !== 'ours') return;
    const limit = performance.now() + 10_000;
    while ((await count()) === before) {
        assert(performance.now() < limit, 'the server never learnt of the cancellation');
        await new Promise(resolve => setTimeout(resolve, 20));
    }
}

const echoOf = shape => [shape.echo[0], shape.echo[1]('before')];
