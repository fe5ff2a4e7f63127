//! What an edge is: its name and its organization, drawn once when the state is made.

use serde::{Deserialize, Serialize};

use super::{By, ChangeError, DatabaseError, Entry, State};

/// An edge's identity. All edges on one database share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeIdentity {
    /// Its name: `api.` and `agents.` stand before it.
    pub edge: String,
    /// UUID that clients name as `organization_id`.
    pub organization_id: String,
}

impl State {
    /// Gives the state its edge. Again with the same name: says what is there.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] for what is no DNS name, [`ChangeError::Conflict`] if it has another one:
    /// tunnels have domains under it.
    pub async fn initialise(&self, by: &By, edge: &str) -> Result<EdgeIdentity, ChangeError> {
        if !is_name(edge) {
            let text = "name: must be a DNS name in small letters, such as edge.example.org";
            return Err(ChangeError::Invalid(text.to_owned()));
        }
        let mut change = self.change(by).await?;
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT name, value FROM setting")
            .fetch_all(&mut *change.transaction)
            .await?;
        if let Some(found) = identity(&rows) {
            return if found.edge == edge {
                Ok(found)
            } else {
                let text = format!("this state belongs to the edge {}", found.edge);
                Err(ChangeError::Conflict(text))
            };
        }
        let made = EdgeIdentity {
            edge: edge.to_owned(),
            organization_id: uuid(),
        };
        let settings = [
            ("edge", &made.edge),
            ("organization_id", &made.organization_id),
        ];
        for (name, value) in settings {
            sqlx::query("INSERT INTO setting (name, value) VALUES ($1, $2)")
                .bind(name)
                .bind(value)
                .execute(&mut *change.transaction)
                .await?;
        }
        change
            .commit(Entry {
                action: "edge_initialised",
                target: Some(edge),
                ..Entry::default()
            })
            .await?;
        Ok(made)
    }

    /// The edge of this state, if it was given one.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn identity(&self) -> Result<Option<EdgeIdentity>, DatabaseError> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT name, value FROM setting")
            .fetch_all(&self.pool)
            .await?;
        Ok(identity(&rows))
    }
}

fn identity(rows: &[(String, String)]) -> Option<EdgeIdentity> {
    let value = |wanted| {
        let found = rows.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    };
    Some(EdgeIdentity {
        edge: value("edge")?,
        organization_id: value("organization_id")?,
    })
}

/// Labels of letters, digits and inner hyphens, at least two, room for a tunnel's and a route's label.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 160 && text.contains('.') && text.split('.').all(label)
}

/// RFC 9562 §5.4: version 4.
fn uuid() -> String {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).expect("AWS-LC aborts when it has no randomness");
    octets[6] = octets[6] & 0x0f | 0x40;
    octets[8] = octets[8] & 0x3f | 0x80;
    let digits = format!("{:032x}", u128::from_be_bytes(octets));
    let mut parts = Vec::with_capacity(5);
    let mut rest = digits.as_str();
    for length in [8, 4, 4, 4] {
        let (part, behind) = rest.split_at(length);
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_its_version_and_a_name_is_a_dns_name() {
        let drawn = uuid();
        assert_eq!(drawn.len(), 36);
        assert_eq!(&drawn[14..15], "4");
        assert!(["8", "9", "a", "b"].contains(&&drawn[19..20]));
        assert!(is_name("edge.example.org") && is_name("edge.test"));
        for bad in [
            "",
            "edge",
            "Edge.test",
            "edge..test",
            "-a.test",
            "a-.test",
            "a_b.test",
            ".test",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
