//! Pages: what is asked for, and the cursor to the next one.

use process::base64;

use super::answer::{Failed, Good};
use super::route::Route;
use crate::state::{Listed, Page};

/// The page that a request asks for.
///
/// # Errors
///
/// 400, naming the parameter.
pub(super) fn page(route: &Route) -> Result<Page, Failed> {
    let limit = match route.query("limit") {
        None => api::DEFAULT_LIMIT,
        Some(text) => {
            let limit = text.parse().ok();
            let limit = limit.filter(|limit| (1..=api::MAX_LIMIT).contains(limit));
            limit.ok_or_else(|| Failed::invalid("limit: must be from 1 to 1000"))?
        }
    };
    let before = cursor(route)?;
    let include_archived = match route.query("include_archived") {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(_) => return Err(Failed::invalid("include_archived: must be true or false")),
    };
    Ok(Page {
        before,
        limit,
        include_archived,
    })
}

/// Where the page that a request asks for begins; `None`: at the beginning.
///
/// # Errors
///
/// 400, naming the parameter.
pub(super) fn cursor(route: &Route) -> Result<Option<u64>, Failed> {
    match route.query("page") {
        None | Some("") => Ok(None),
        Some(cursor) => match read(cursor) {
            None => Err(Failed::invalid("page: is no cursor of this list")),
            known => Ok(known),
        },
    }
}

/// The page as it is answered.
pub(super) fn answer<T: serde::Serialize>((data, next): Listed<T>) -> Good {
    let next_page =
        next.map(|position| format!("page_{}", base64::encode_url(&position.to_be_bytes())));
    Good::json(&api::List { data, next_page })
}

fn read(cursor: &str) -> Option<u64> {
    let octets = base64::decode_url(cursor.strip_prefix("page_")?)?;
    octets.try_into().ok().map(u64::from_be_bytes)
}
