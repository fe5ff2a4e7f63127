// What the MCP conformance suite expects to find in a server under test: tools, resources and prompts with fixed answers.
const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const SILENCE = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';

const text = value => ({ type: 'text', text: value });
const image = { type: 'image', data: PIXEL, mimeType: 'image/png' };
const resource = (uri, mimeType, value) => ({ type: 'resource', resource: { uri, mimeType, text: value } });
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const strings = (...names) => ({
    type: 'object',
    properties: Object.fromEntries(names.map(name => [name, { type: 'string' }])),
    required: names,
});

async function log(context) {
    for (const [at, data] of ['Tool execution started', 'Tool processing data', 'Tool execution completed'].entries()) {
        if (at > 0) await pause(50);
        await context.mcpReq.notify({ method: 'notifications/message', params: { level: 'info', data } });
    }
    return [text('three messages were logged')];
}

async function progress(context) {
    const progressToken = context.mcpReq._meta?.progressToken;
    for (const step of [0, 50, 100]) {
        if (step > 0) await pause(50);
        if (progressToken === undefined) continue;
        await context.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress: step, total: 100 } });
    }
    return [text('done')];
}

async function sample(context, { prompt }) {
    const messages = [{ role: 'user', content: text(prompt) }];
    const answer = await context.mcpReq.send({ method: 'sampling/createMessage', params: { messages, maxTokens: 100 } });
    const said = Array.isArray(answer.content) ? answer.content[0] : answer.content;
    return [text(`LLM response: ${said.text}`)];
}

async function elicit(context, message, properties, required, prefix) {
    const params = { message, requestedSchema: { type: 'object', properties, required } };
    const { action, content } = await context.mcpReq.send({ method: 'elicitation/create', params });
    return [text(`${prefix}: action=${action}, content=${JSON.stringify(content)}`)];
}

const PERSON = {
    username: { type: 'string', description: "User's response" },
    email: { type: 'string', description: "User's email address" },
};
const DEFAULTS = {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
};
const OPTIONS = ['option1', 'option2', 'option3'];
const TITLED = ['First', 'Second', 'Third'].map((title, at) => ({ const: `value${at + 1}`, title: `${title} Option` }));
const CHOICES = {
    untitledSingle: { type: 'string', enum: OPTIONS },
    titledSingle: { type: 'string', oneOf: TITLED },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: OPTIONS } },
    titledMulti: { type: 'array', items: { anyOf: TITLED } },
};

const TOOLS = {
    test_simple_text: async () => [text('This is a simple text response for testing.')],
    test_image_content: async () => [image],
    test_audio_content: async () => [{ type: 'audio', data: SILENCE, mimeType: 'audio/wav' }],
    test_embedded_resource: async () => [resource('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')],
    test_multiple_content_types: async () => [
        text('Multiple content types test:'),
        image,
        resource('test://mixed-content-resource', 'application/json', JSON.stringify({ test: 'data', value: 123 })),
    ],
    test_tool_with_logging: log,
    test_error_handling: async () => {
        throw new Error('This tool intentionally returns an error for testing');
    },
    test_tool_with_progress: progress,
    test_sampling: sample,
    test_elicitation: (context, { message }) => elicit(context, message, PERSON, ['username', 'email'], 'User response'),
    test_elicitation_sep1034_defaults: context => elicit(context, 'Defaults', DEFAULTS, [], 'Elicitation completed'),
    test_custom_headers: async (_, input) => [text(JSON.stringify(input))],
    json_schema_2020_12_tool: async () => [text('ok')],
    test_elicitation_sep1330_enums: context => elicit(context, 'Choices', CHOICES, [], 'Elicitation completed'),
};
// Every keyword of JSON Schema 2020-12 that the suite looks for must come through as it is written.
const CONDITIONAL = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    type: 'object',
    $defs: {
        address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } },
    },
    properties: {
        name: { type: 'string' },
        address: { $ref: '#/$defs/address' },
        contactMethod: { type: 'string', enum: ['phone', 'email'] },
        phone: { type: 'string' },
        email: { type: 'string' },
    },
    allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
    if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
    then: { required: ['phone'] },
    else: { required: ['email'] },
    additionalProperties: false,
};
// Arguments that a client of 2026-07-28 repeats as headers.
const HEADERS = {
    type: 'object',
    properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, note: { type: 'string' } },
    required: ['region'],
};
const ARGUMENTS = {
    test_sampling: strings('prompt'),
    test_elicitation: strings('message'),
    json_schema_2020_12_tool: CONDITIONAL,
    test_custom_headers: HEADERS,
};

const RESOURCES = {
    'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
    'test://static-binary': { mimeType: 'image/png', blob: PIXEL },
    'test://watched-resource': { mimeType: 'text/plain', text: 'watched' },
};

const say = content => ({ role: 'user', content });
const PROMPTS = {
    test_simple_prompt: [[], () => [say(text('This is a simple prompt for testing.'))]],
    test_prompt_with_arguments: [
        ['arg1', 'arg2'],
        ({ arg1, arg2 }) => [say(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
    ],
    test_prompt_with_embedded_resource: [
        ['resourceUri'],
        ({ resourceUri }) => [
            say(resource(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
            say(text('Please process the embedded resource above.')),
        ],
    ],
    test_prompt_with_image: [[], () => [say(image), say(text('Please analyze the image above.'))]],
};

export const capabilities = { tools: {}, resources: { subscribe: true }, prompts: {}, completions: {}, logging: {} };

// `server`: the SDK's low-level server. `refused`: its class for errors of the protocol.
export function install(server, refused) {
    const described = Object.keys(TOOLS).map(name => ({
        name,
        description: `Fixture ${name}`,
        inputSchema: ARGUMENTS[name] ?? { type: 'object', properties: {} },
    }));
    server.setRequestHandler('tools/list', async () => ({ tools: described }));
    server.setRequestHandler('tools/call', async (request, context) => {
        const tool = TOOLS[request.params.name];
        if (!tool) throw new refused(-32602, `no tool ${request.params.name}`);
        try {
            return { content: await tool(context, request.params.arguments ?? {}) };
        } catch (error) {
            return { isError: true, content: [text(error.message)] };
        }
    });
    const listed = Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri.slice(7), description: uri, mimeType }));
    server.setRequestHandler('resources/list', async () => ({ resources: listed }));
    server.setRequestHandler('resources/templates/list', async () => ({
        resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', mimeType: 'application/json' }],
    }));
    server.setRequestHandler('resources/read', async ({ params: { uri } }) => {
        const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
        const data = { id, templateTest: true, data: `Data for ID: ${id}` };
        const found = id ? { mimeType: 'application/json', text: JSON.stringify(data) } : RESOURCES[uri];
        if (!found) throw new refused(-32602, 'Resource not found', { uri });
        return { contents: [{ uri, ...found }] };
    });
    server.setRequestHandler('resources/subscribe', async () => ({}));
    server.setRequestHandler('resources/unsubscribe', async () => ({}));
    server.setRequestHandler('prompts/list', async () => ({
        prompts: Object.entries(PROMPTS).map(([name, [names]]) => ({
            name,
            description: `Fixture ${name}`,
            arguments: names.map(argument => ({ name: argument, description: argument, required: true })),
        })),
    }));
    server.setRequestHandler('prompts/get', async ({ params }) => {
        const prompt = PROMPTS[params.name];
        if (!prompt) throw new refused(-32602, `no prompt ${params.name}`);
        return { messages: prompt[1](params.arguments ?? {}) };
    });
    server.setRequestHandler('completion/complete', async () => ({ completion: { values: ['paris', 'park'], total: 2, hasMore: false } }));
    server.setRequestHandler('logging/setLevel', async () => ({}));
}
