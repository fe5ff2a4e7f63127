//! What the tests of several modules stand on: both databases, a clock that can be set, an issuer.

pub(crate) mod clock;
pub(crate) mod issuer;
pub(crate) mod postgres;
pub(crate) mod stage;

/// Each test once on `SQLite` and once on `PostgreSQL`: `on_both!(a, b)` for `async fn a(stage: Stage)`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(crate::tests::stage::Stage::sqlite().await).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(crate::tests::stage::Stage::postgres().await).await;
                }
            )*
        }
    };
}
pub(crate) use on_both;
