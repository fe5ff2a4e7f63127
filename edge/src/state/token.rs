//! Tunnel tokens: made here, given out, rotated.

use std::fmt;

use aws_lc_rs::{digest, rand};
use process::base64;
use zeroize::Zeroizing;

use super::idempotency::Earlier;
use super::{
    By, Change, ChangeError, DatabaseError, Entry, Identifier, Kind, Outcome, State,
    random_identifier, signed, timestamp,
};

/// The longest time for which an old token may go on: seven days.
pub const LONGEST_OVERLAP: u64 = 604_800;

/// What is asked of a rotation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation<'a> {
    /// For the audit log.
    pub reason: Option<&'a str>,
    /// Seconds for which the old token goes on before all that is bound to it is cut; `None`: it opens
    /// nothing new from now on, and what is connected stays.
    pub cut_old_after: Option<u64>,
    /// The same key and request give the same answer for ten minutes.
    pub idempotency_key: Option<&'a str>,
}

/// A value that opens something: erased when dropped, silent in `Debug`.
#[derive(Clone)]
pub struct Value(Zeroizing<String>);

impl Value {
    /// 256 random bits behind a prefix that scanners of leaked secrets can look for.
    pub(super) fn random(prefix: &str) -> Self {
        let mut octets = Zeroizing::new([0; 32]);
        rand::fill(&mut *octets).expect("AWS-LC aborts when it has no randomness");
        let text = Zeroizing::new(base64::encode_url(&*octets));
        Self(Zeroizing::new([prefix, &text].concat()))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value")
    }
}

/// The digest that a credential is stored and looked up by, as lower-case hexadecimal.
pub fn sha256(text: &str) -> String {
    use fmt::Write;
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut hex, octet| {
            write!(hex, "{octet:02x}").expect("a String takes everything");
            hex
        })
}

impl State {
    /// The token in force, opened from its seal.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Unrevealable`] where tokens are not kept, or not with this key file.
    pub async fn reveal_token(
        &self,
        by: &By,
        tunnel: &str,
        reason: Option<&str>,
    ) -> Result<api::Token, ChangeError> {
        if !self.settings.reveal {
            let text = "this edge does not keep tokens: rotate the token to get a value";
            return Err(ChangeError::Unrevealable(text));
        }
        let mut transaction = self.pool.begin().await?;
        let found: Option<(Option<i64>,)> =
            sqlx::query_as("SELECT archived_at FROM tunnel WHERE id = $1")
                .bind(tunnel)
                .fetch_optional(&mut *transaction)
                .await?;
        let (archived,) = found.ok_or(ChangeError::NotFound("tunnel"))?;
        if archived.is_some() {
            return Err(ChangeError::Conflict("the tunnel is archived".to_owned()));
        }
        let row: Option<(String, Option<String>)> = sqlx::query_as(
            "SELECT id, sealed FROM connector_credential
             WHERE tunnel = $1 AND kind = 'token' AND refused_at IS NULL
             ORDER BY position DESC LIMIT 1",
        )
        .bind(tunnel)
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        let lost = "the token was sealed with another key file: rotate the token to get a value";
        let (id, sealed) = row.ok_or(ChangeError::NotFound("token"))?;
        let value = sealed
            .and_then(|sealed| self.seal.unseal(&id, &sealed).ok())
            .ok_or(ChangeError::Unrevealable(lost))?;
        let entry = Entry::of("tunnel_token_revealed", tunnel, &id).because(reason);
        // Before the answer: a value that went out without a row would be worse than none.
        self.note(by, entry, Outcome::Done).await?;
        Ok(answer(id, &value))
    }

    /// How many tokens in force are sealed with another key file than this one, as after a restore on a new
    /// machine: they connect, and cannot be revealed.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn closed_tokens(&self) -> Result<usize, DatabaseError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT id, sealed FROM connector_credential
             WHERE sealed IS NOT NULL AND refused_at IS NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        let closed = |(id, sealed): &&(String, String)| self.seal.unseal(id, sealed).is_err();
        Ok(rows.iter().filter(closed).count())
    }

    /// Makes a new token the one in force, and ends the old ones as asked.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Conflict`] if an overlap is asked for while two tokens are active already, or if
    /// the idempotency key stands for another request.
    pub async fn rotate_token(
        &self,
        by: &By,
        tunnel: &str,
        rotation: Rotation<'_>,
    ) -> Result<(api::Token, u64), ChangeError> {
        self.check(&rotation)?;
        let mut change = self.change(by).await?;
        change.usable_tunnel(tunnel).await?;
        if let Some(key) = rotation.idempotency_key {
            match self.earlier(&mut change, tunnel, key, &rotation).await? {
                Earlier::Answered(token) => {
                    return Ok((token, change.nothing().await?));
                }
                Earlier::Other => {
                    let text = "idempotency-key: was used for another request";
                    return Err(ChangeError::Conflict(text.to_owned()));
                }
                Earlier::None => {}
            }
        }
        change.end_tokens(tunnel, rotation.cut_old_after).await?;
        let (id, value) = mint(self, &mut change, tunnel).await?;
        let token = answer(id, value.expose());
        if let Some(key) = rotation.idempotency_key {
            self.remember(&mut change, tunnel, key, &rotation, &token)
                .await?;
        }
        let entry = Entry::of("tunnel_token_rotated", tunnel, &token.id);
        let number = change.commit(entry.because(rotation.reason)).await?;
        Ok((token, number))
    }

    fn check(&self, rotation: &Rotation<'_>) -> Result<(), ChangeError> {
        let invalid = |text: &str| Err(ChangeError::Invalid(text.to_owned()));
        if rotation.cut_old_after.is_some_and(|s| s > LONGEST_OVERLAP) {
            return invalid("cut_old_after_seconds: must be from 0 to 604800");
        }
        if rotation.idempotency_key.is_none() && !self.settings.reveal {
            return invalid(
                "idempotency-key: required here, because this edge does not keep tokens and a lost answer could not be recovered",
            );
        }
        Ok(())
    }
}

impl Change<'_> {
    async fn end_tokens(
        &mut self,
        tunnel: &str,
        cut_after: Option<u64>,
    ) -> Result<(), ChangeError> {
        if cut_after.is_some_and(|seconds| seconds > 0) {
            self.refuse_third(tunnel).await?;
        }
        let columns: &[&str] = match cut_after {
            Some(_) => &["refused_at", "cut_at"],
            None => &["refused_at"],
        };
        let at = self.by.now.saturating_add(cut_after.unwrap_or_default());
        let ended = self.end_credentials(tunnel, Some(Kind::Token), columns, at);
        Ok(ended.await?)
    }

    /// At most two are active: an overlap needs a free place.
    async fn refuse_third(&mut self, tunnel: &str) -> Result<(), ChangeError> {
        let leaving: Option<(i64,)> = sqlx::query_as(
            "SELECT refused_at FROM connector_credential
             WHERE tunnel = $1 AND kind = 'token'
             AND refused_at > $2 AND refused_at > COALESCE(stamped_at, 0)
             ORDER BY refused_at DESC LIMIT 1",
        )
        .bind(tunnel)
        .bind(signed(self.by.now))
        .fetch_optional(&mut *self.transaction)
        .await?;
        match leaving {
            None => Ok(()),
            Some((end,)) => Err(ChangeError::Conflict(format!(
                "two tokens are active, the older until {}: wait, or rotate with cut_old_after_seconds 0",
                timestamp(end)
            ))),
        }
    }
}

/// Makes a token within a change: id and value.
pub(super) async fn mint(
    state: &State,
    change: &mut Change<'_>,
    tunnel: &str,
) -> Result<(String, Value), DatabaseError> {
    let id = random_identifier(Identifier::Token);
    let value = Value::random("kwt-");
    let kept = state.settings.reveal;
    let sealed = kept.then(|| state.seal.seal(&id, value.expose()));
    sqlx::query(
        "INSERT INTO connector_credential
         (id, position, tunnel, kind, sha256, sealed, created_at)
         VALUES ($1, $2, $3, 'token', $4, $5, $6)",
    )
    .bind(&id)
    .bind(change.number)
    .bind(tunnel)
    .bind(sha256(value.expose()))
    .bind(sealed)
    .bind(signed(change.by.now))
    .execute(&mut *change.transaction)
    .await?;
    Ok((id, value))
}

fn answer(id: String, value: &str) -> api::Token {
    api::Token {
        id,
        r#type: "tunnel_token".to_owned(),
        tunnel_token: value.to_owned(),
        enforced: None,
    }
}
