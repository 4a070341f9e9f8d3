package cli

import (
	"context"
	"github.com/slipcover/slipcover/couchfile"
	"github.com/spf13/cobra"
	"os"
)

func newCreate(env *Env, g *globalOptions) *cobra.Command       { return &cobra.Command{Use: "create"} }
func newBackupVerify(env *Env, g *globalOptions) *cobra.Command { return &cobra.Command{Use: "verify"} }
func newDemo(env *Env) *cobra.Command                           { return &cobra.Command{Use: "demo"} }
func verifyFile(ctx context.Context, f *os.File, n int64) (*verifyReport, error) {
	rep, err := couchfile.Verify(ctx, f, n, couchfile.VerifyOptions{})
	if err != nil {
		return nil, err
	}
	out := &verifyReport{OK: rep.OK(), Findings: []findingReport{}}
	for _, x := range rep.Findings {
		out.Findings = append(out.Findings, findingReport{x.Offset, x.What, x.Doc, x.Rev})
	}
	return out, nil
}
