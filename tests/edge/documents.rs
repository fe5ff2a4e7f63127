//! What the documentation says of the edge's pages is true.

use super::stand::{OPEN, Stand};
use crate::cli::undocumented;

#[tokio::test]
async fn every_metric_of_edge_and_proxy_is_documented() {
    let stand = Stand::start(1, OPEN).await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);
    for (program, document) in [(&stand.edge, "edge.md"), (&stand.proxies[0], "config.md")] {
        let metrics = program.page("/metrics").await.unwrap();
        assert_eq!(undocumented(&metrics, document), Vec::<&str>::new());
    }
}
