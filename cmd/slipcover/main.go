// Command slipcover backs up a running Apache CouchDB by its files and brings
// back anything from it.
package main

import (
	"context"
	"os"

	"github.com/slipcover/slipcover/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), cli.SystemEnv(), os.Args[1:]))
}
