// A real Vault server for tests, built by the ordinary Go client in 2 to 4 minutes; nothing of it is shipped:
//   CGO_ENABLED=0 go build -mod=mod -tags minimal -o vault github.com/hashicorp/vault
// `minimal` keeps approle, cert, jwt and userpass, identity, kv, pki, transit; raft, file, inmem. 1.21.2 and later do
// not build by this way: they need a revision of their own sdk that was never released as a module version.
module vaultserver

go 1.26

tool github.com/hashicorp/vault

require (
	github.com/hashicorp/vault v1.21.1
	github.com/hashicorp/vault/api v1.22.0 // indirect
	github.com/hashicorp/vault/sdk v0.20.0 // indirect
)

replace github.com/hashicorp/vault/sdk => github.com/hashicorp/vault/sdk v0.20.0
