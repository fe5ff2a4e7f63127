//! What to write into the configuration of the common MCP clients.
//!
//! Nothing of it is written anywhere by us, and no secret is in it: paths alone.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::stdio::StdioTarget;

/// One object, a client a member. `program` with `words` is this agent as a command for `target`, for
/// clients that only start commands; the others ask at `listen`.
pub fn snippets(
    target: &StdioTarget,
    listen: SocketAddr,
    program: &str,
    words: &[String],
) -> Value {
    let name = &target.route.0;
    // By path: not every system resolves names below localhost.
    let url = format!("http://{listen}/{name}{}", target.path);
    let server = |what: Value| json!({ name: what });
    let command = json!({"command": program, "args": words});
    json!({
        "url": url,
        "claude_code": {
            "run": format!("claude mcp add --transport http {name} {url}"),
            "file": ".mcp.json",
            "content": {"mcpServers": server(json!({"type": "http", "url": url}))},
        },
        "claude_desktop": {
            "file": "claude_desktop_config.json",
            "content": {"mcpServers": server(command.clone())},
        },
        "vscode": {
            "file": ".vscode/mcp.json",
            "content": {"servers": server(json!({"type": "http", "url": url}))},
        },
        "cursor": {
            "file": "~/.cursor/mcp.json",
            "content": {"mcpServers": server(json!({"url": url}))},
        },
        "gemini_cli": {
            "file": "~/.gemini/settings.json",
            "content": {"mcpServers": server(json!({"httpUrl": url}))},
        },
        "codex": {
            "file": "~/.codex/config.toml",
            "text": format!("[mcp_servers.{name}]\nurl = \"{url}\"\n"),
        },
        "command": command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_the_address_by_path_or_the_command() {
        let target = "docs/other".parse().unwrap();
        let words = ["agent".to_owned(), "--stdio".to_owned()];
        let all = snippets(
            &target,
            "127.0.0.1:7777".parse().unwrap(),
            "/bin/edge",
            &words,
        );
        let url = "http://127.0.0.1:7777/docs/other";
        assert_eq!(
            all["claude_code"]["content"]["mcpServers"]["docs"]["url"],
            url
        );
        assert_eq!(all["vscode"]["content"]["servers"]["docs"]["url"], url);
        let command = &all["claude_desktop"]["content"]["mcpServers"]["docs"];
        assert_eq!(command["command"], "/bin/edge");
        assert_eq!(command["args"], json!(words));
    }
}
