//! The same key and the same request give the same answer for ten minutes, so that a lost answer can
//! be asked for again. The answer holds a token: it is sealed, and gone when its time is over.

use super::{Change, ChangeError, DatabaseError, Rotation, State, signed, token};

/// How long an answer is kept, seconds.
const KEPT: u64 = 600;

/// What a key stands for.
pub(super) enum Earlier {
    /// Nothing yet.
    None,
    /// The same request, and this was answered.
    Answered(api::Token),
    /// Another request.
    Other,
}

impl State {
    pub(super) async fn earlier(
        &self,
        change: &mut Change<'_>,
        tunnel: &str,
        key: &str,
        rotation: &Rotation<'_>,
    ) -> Result<Earlier, ChangeError> {
        sqlx::query("DELETE FROM idempotency WHERE expires_at <= $1")
            .bind(signed(change.by.now))
            .execute(&mut *change.transaction)
            .await?;
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT request, answer FROM idempotency WHERE tunnel = $1 AND mark = $2",
        )
        .bind(tunnel)
        .bind(mark(change, key))
        .fetch_optional(&mut *change.transaction)
        .await?;
        let Some((request, answer)) = row else {
            return Ok(Earlier::None);
        };
        if request != digest(rotation) {
            return Ok(Earlier::Other);
        }
        let text = self.seal.unseal(&mark(change, key), &answer).ok();
        let lost = "the earlier answer was sealed with another key file: rotate with another key";
        text.and_then(|text| serde_json::from_str(&text).ok())
            .map(Earlier::Answered)
            .ok_or(ChangeError::Unrevealable(lost))
    }

    pub(super) async fn remember(
        &self,
        change: &mut Change<'_>,
        tunnel: &str,
        key: &str,
        rotation: &Rotation<'_>,
        token: &api::Token,
    ) -> Result<(), DatabaseError> {
        let mark = mark(change, key);
        let text = zeroize::Zeroizing::new(
            serde_json::to_string(token).expect("a token is plain text and has a JSON form"),
        );
        sqlx::query(
            "INSERT INTO idempotency (tunnel, mark, request, answer, expires_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(tunnel)
        .bind(&mark)
        .bind(digest(rotation))
        .bind(self.seal.seal(&mark, &text))
        .bind(signed(change.by.now.saturating_add(KEPT)))
        .execute(&mut *change.transaction)
        .await?;
        Ok(())
    }
}

/// Keys belong to whoever sent them: nobody gets another's answer by guessing.
fn mark(change: &Change<'_>, key: &str) -> String {
    token::sha256(&format!("{}\n{key}", change.by.actor))
}

fn digest(rotation: &Rotation<'_>) -> String {
    token::sha256(&format!(
        "{:?} {:?}",
        rotation.cut_old_after, rotation.reason
    ))
}
