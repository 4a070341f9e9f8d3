package s3

import (
	"net/http"
	"net/url"
	"strings"
)

// right returns what a policy must allow for a request, and on what: "s3:GetObject on
// bucket/prefix/*", or two joined by "and" or "or"; "" for a request that needs none of the
// bucket.
//
// Source: Amazon's Service Authorization Reference, actions of Amazon S3.
func (s settings) right(req *http.Request) string {
	q := req.URL.Query()
	name, ofBucket := s.objectOf(req.URL)
	switch {
	case !ofBucket:
		return ""
	case name == "" && q.Has("delete"):
		return s.onObjects("s3:DeleteObject")
	case name == "":
		return s.onBucket(bucketRight(req.Method, q))
	}
	return s.objectRight(req, q)
}

func (s settings) onBucket(right string) string { return right + " on the bucket " + s.bucket }
func (s settings) onObjects(right string) string {
	return right + " on " + s.bucket + "/" + s.prefix + "*"
}

// objectOf returns the name of the object in a URL, "" if it is the bucket's own. The
// bucket is in the host or the first element of the path.
func (s settings) objectOf(u *url.URL) (name string, ofBucket bool) {
	path := strings.TrimPrefix(u.Path, "/")
	if strings.HasPrefix(u.Host, s.bucket+".") {
		return path, true
	}
	bucket, name, _ := strings.Cut(path, "/")
	return name, bucket == s.bucket
}

func bucketRight(method string, q url.Values) string {
	switch {
	case q.Has("versioning"):
		return "s3:GetBucketVersioning"
	case q.Has("location"):
		return "s3:GetBucketLocation"
	case q.Has("object-lock"):
		return "s3:GetBucketObjectLockConfiguration"
	case q.Has("versions"):
		return "s3:ListBucketVersions"
	case q.Has("uploads"):
		return "s3:ListBucketMultipartUploads"
	case method == http.MethodPut:
		return "s3:CreateBucket"
	}
	return "s3:ListBucket"
}

func (s settings) objectRight(req *http.Request, q url.Values) string {
	of := "Object"
	if q.Has("versionId") {
		of = "ObjectVersion"
	}
	switch req.Method {
	case http.MethodPut, http.MethodPost:
		switch {
		case q.Has("retention"):
			return s.onObjects("s3:PutObjectRetention")
		case req.Header.Get("X-Amz-Object-Lock-Mode") != "":
			return s.onObjects("s3:PutObject and s3:PutObjectRetention")
		}
		return s.onObjects("s3:PutObject")
	case http.MethodDelete:
		if q.Has("uploadId") {
			return s.onObjects("s3:AbortMultipartUpload")
		}
		return s.onObjects("s3:Delete" + of)
	}
	if q.Has("retention") {
		return s.onObjects("s3:GetObjectRetention")
	}
	// Without ListBucket S3 denies also what isn't there.
	return s.onObjects("s3:Get"+of) + ", or " + s.onBucket("s3:ListBucket")
}
