package service_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m, cli.Run, nil) }
