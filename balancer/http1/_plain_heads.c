/* Plain heads, read in one pass: what balancer/http1/plain_heads.py specifies in Python, and nothing more.
 *
 * Both functions take bytes that llhttp has accepted and still trust none of them. They return None for whatever is
 * not plain; the caller's pure parser decides then. They allocate only their results and keep no state.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <string.h>

#define NAME_MAX_LENGTH 20  /* the longest name that is known: x-forwarded-proto, transfer-encoding */
#define MAX_RESPONSE_FIELDS 200

enum name {
    OTHER,
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    REQUEST_ID,
    DATE,
    RARE_IN_REQUEST,  /* changes how a request travels */
    RARE_IN_BOTH,     /* ... or a response, too */
    TWIN,             /* one of the names above, but for "_" in place of "-" */
};

struct known {
    const char *text;
    enum name name;
};

static const struct known KNOWN[] = {
    {"host", HOST},
    {"connection", CONNECTION},
    {"content-length", CONTENT_LENGTH},
    {"x-request-id", REQUEST_ID},
    {"date", DATE},
    {"te", RARE_IN_BOTH},
    {"transfer-encoding", RARE_IN_BOTH},
    {"upgrade", RARE_IN_BOTH},
    {"keep-alive", RARE_IN_BOTH},
    {"proxy-connection", RARE_IN_BOTH},
    {"expect", RARE_IN_REQUEST},
    {"via", RARE_IN_REQUEST},
    {"forwarded", RARE_IN_REQUEST},
    {"max-forwards", RARE_IN_REQUEST},
    {"x-real-ip", RARE_IN_REQUEST},
    {"x-forwarded-for", RARE_IN_REQUEST},
    {"x-forwarded-proto", RARE_IN_REQUEST},
    {"x-forwarded-host", RARE_IN_REQUEST},
    {"x-forwarded-port", RARE_IN_REQUEST},
};
#define KNOWN_COUNT (sizeof KNOWN / sizeof KNOWN[0])

static bool is_token(unsigned char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return true;
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_request_id(unsigned char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return true;
    return c != 0 && strchr("._:/+=-", c) != NULL;
}

static unsigned char lower(unsigned char c)
{
    return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c;
}

/* One field line: name, value without SP and HTAB around it, and where the line ends (its CR). */
struct field {
    enum name name;
    const char *start, *name_end, *value, *value_end, *end;
};

static enum name name_of(const char *start, const char *end)
{
    size_t length = (size_t)(end - start);
    char text[NAME_MAX_LENGTH + 1];
    bool twin = false;

    if (length > NAME_MAX_LENGTH)
        return OTHER;
    for (size_t i = 0; i < length; i++) {
        char c = (char)lower((unsigned char)start[i]);
        if (c == '_') {
            c = '-';
            twin = true;
        }
        text[i] = c;
    }
    text[length] = '\0';
    for (size_t i = 0; i < KNOWN_COUNT; i++)
        if (KNOWN[i].text[0] == text[0] && strcmp(KNOWN[i].text, text) == 0)
            return twin ? TWIN : KNOWN[i].name;
    return OTHER;
}

/* Reads the field line at `at`. False = not plain. `limit` is the end of the head. */
static bool read_field(const char *at, const char *limit, struct field *field)
{
    const char *p = at;
    const char *cr;

    while (p < limit && is_token((unsigned char)*p))
        p++;
    if (p == at || p >= limit || *p != ':')
        return false;
    field->start = at;
    field->name_end = p;
    cr = memchr(p, '\r', (size_t)(limit - p));
    if (cr == NULL || cr + 1 >= limit || cr[1] != '\n')
        return false;
    p++;
    if (memchr(p, '\n', (size_t)(cr - p)) != NULL || memchr(p, '\0', (size_t)(cr - p)) != NULL)
        return false;
    field->end = cr;
    while (p < cr && (*p == ' ' || *p == '\t'))
        p++;
    field->value = p;
    while (cr > p && (cr[-1] == ' ' || cr[-1] == '\t'))
        cr--;
    field->value_end = cr;
    field->name = name_of(field->start, field->name_end);
    return true;
}

/* A line `NAME: DIGITS` without more: its number, or -1. */
static long long plain_length(const struct field *field)
{
    const char *p = field->name_end + 1;
    long long number = 0;

    if (field->value != p + 1 || *p != ' ' || field->value_end != field->end)
        return -1;
    if (field->value_end == field->value || field->value_end - field->value > 18)
        return -1;
    if (*field->value == '0' && field->value_end - field->value > 1)
        return -1;
    for (p = field->value; p < field->value_end; p++) {
        if (*p < '0' || *p > '9')
            return -1;
        number = number * 10 + (*p - '0');
    }
    return number;
}

static bool is_keep_alive(const struct field *field)
{
    static const char text[] = "keep-alive";

    if ((size_t)(field->value_end - field->value) != sizeof text - 1)
        return false;
    for (size_t i = 0; i < sizeof text - 1; i++)
        if (lower((unsigned char)field->value[i]) != (unsigned char)text[i])
            return false;
    return true;
}

/* [(start, end)] of the one line that is cut, or []. */
static PyObject *cuts_of(const char *raw, const struct field *cut)
{
    PyObject *span, *cuts;

    if (cut->start == NULL)
        return PyList_New(0);
    span = Py_BuildValue("(nn)", (Py_ssize_t)(cut->start - 2 - raw), (Py_ssize_t)(cut->end - raw));
    if (span == NULL)
        return NULL;
    cuts = PyList_New(1);
    if (cuts == NULL) {
        Py_DECREF(span);
        return NULL;
    }
    PyList_SET_ITEM(cuts, 0, span);
    return cuts;
}

/* The end of the fields: the CRLF of the empty line, which must be the last two bytes. NULL = no such head. */
static const char *fields_end(const char *raw, Py_ssize_t size)
{
    if (size < 18 || memcmp(raw + size - 4, "\r\n\r\n", 4) != 0)
        return NULL;
    return raw + size - 2;
}

static bool is_plain_method(const char *start, const char *end)
{
    static const char *const refused[] = {"CONNECT", "TRACE", "OPTIONS", "PRI"};
    size_t length = (size_t)(end - start);

    if (length < 1 || length > 20)
        return false;
    for (const char *p = start; p < end; p++)
        if (*p < 'A' || *p > 'Z')
            return false;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (strlen(refused[i]) == length && memcmp(refused[i], start, length) == 0)
            return false;
    return true;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* "%" and two hexadecimal digits, other than %00. */
static bool is_plain_escape(const char *p, const char *limit)
{
    return limit - p > 2 && is_hex(p[1]) && is_hex(p[2]) && !(p[1] == '0' && p[2] == '0');
}

static PyObject *plain_request(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    char *raw;
    Py_ssize_t size, uri_bytes, header_count, fields = 0;
    const char *limit, *p, *method_end, *target, *target_end;
    struct field host = {0}, request_id = {0}, cut = {0}, field;
    long long length = -1;
    PyObject *cuts;

    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "plain_request(raw, uri_bytes, header_count)");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &raw, &size) < 0)
        return NULL;
    uri_bytes = PyLong_AsSsize_t(args[1]);
    header_count = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    limit = fields_end(raw, size);
    if (limit == NULL)
        Py_RETURN_NONE;
    method_end = memchr(raw, ' ', (size_t)(limit - raw));
    if (method_end == NULL || !is_plain_method(raw, method_end))
        Py_RETURN_NONE;
    target = p = method_end + 1;
    if (p >= limit || *p != '/')
        Py_RETURN_NONE;
    while (p < limit && *p > ' ' && *p < 0x7f && *p != '#' && *p != '\\') {
        if (*p == '%' && !is_plain_escape(p, limit))
            Py_RETURN_NONE;
        p++;
    }
    target_end = p;
    if (target_end - target > uri_bytes || limit - p < 11 || memcmp(p, " HTTP/1.1\r\n", 11) != 0)
        Py_RETURN_NONE;
    const Py_ssize_t line_end = (p - raw) + 9;
    for (p += 11; p < limit; p = field.end + 2) {
        if (++fields > header_count || !read_field(p, limit, &field))
            Py_RETURN_NONE;
        switch (field.name) {
        case HOST:
            if (host.start != NULL || field.value == field.value_end)
                Py_RETURN_NONE;
            host = field;
            break;
        case REQUEST_ID:
            if (request_id.start != NULL || field.value == field.value_end || field.value_end - field.value > 128)
                Py_RETURN_NONE;
            for (const char *q = field.value; q < field.value_end; q++)
                if (!is_request_id((unsigned char)*q))
                    Py_RETURN_NONE;
            request_id = field;
            break;
        case CONNECTION:
            if (cut.start != NULL || !is_keep_alive(&field))
                Py_RETURN_NONE;
            cut = field;
            break;
        case CONTENT_LENGTH:
            if (length >= 0 || (length = plain_length(&field)) < 0)
                Py_RETURN_NONE;
            break;
        case OTHER:
        case DATE:
            break;
        default:
            Py_RETURN_NONE;
        }
    }
    if (host.start == NULL)
        Py_RETURN_NONE;
    cuts = cuts_of(raw, &cut);
    if (cuts == NULL)
        return NULL;
    return Py_BuildValue("(ny#y#iy#y#LN)", line_end, raw, (Py_ssize_t)(method_end - raw), target,
                         (Py_ssize_t)(target_end - target), 1, host.value, (Py_ssize_t)(host.value_end - host.value),
                         request_id.start != NULL ? request_id.value : "",
                         (Py_ssize_t)(request_id.value_end - request_id.value), length < 0 ? 0 : length, cuts);
}

static PyObject *plain_response(PyObject *Py_UNUSED(module), PyObject *arg)
{
    char *raw;
    Py_ssize_t size, fields = 0;
    const char *limit, *p;
    struct field cut = {0}, field;
    long long length = -1;
    bool has_date = false;
    PyObject *cuts;
    int status;

    if (PyBytes_AsStringAndSize(arg, &raw, &size) < 0)
        return NULL;
    limit = fields_end(raw, size);
    if (limit == NULL || memcmp(raw, "HTTP/1.1 ", 9) != 0)
        Py_RETURN_NONE;
    for (p = raw + 9; p < raw + 12; p++)
        if (*p < '0' || *p > '9')
            Py_RETURN_NONE;
    status = (raw[9] - '0') * 100 + (raw[10] - '0') * 10 + (raw[11] - '0');
    if (status < 200 || status > 599 || status == 204 || status == 205 || status == 304 || *p != ' ')
        Py_RETURN_NONE;
    for (p++; p < limit && ((*p >= ' ' && *p < 0x7f) || *p == '\t'); p++)
        ;
    if (p == raw + 13 || limit - p < 2 || p[0] != '\r' || p[1] != '\n')
        Py_RETURN_NONE;
    const Py_ssize_t line_end = p - raw;
    for (p += 2; p < limit; p = field.end + 2) {
        if (++fields > MAX_RESPONSE_FIELDS || !read_field(p, limit, &field))
            Py_RETURN_NONE;
        switch (field.name) {
        case CONTENT_LENGTH:
            if (length >= 0 || (length = plain_length(&field)) < 0)
                Py_RETURN_NONE;
            break;
        case CONNECTION:
            if (cut.start != NULL || !is_keep_alive(&field))
                Py_RETURN_NONE;
            cut = field;
            break;
        case DATE:
            has_date = true;
            break;
        case RARE_IN_BOTH:
            Py_RETURN_NONE;
        default:
            break;
        }
    }
    if (length < 0)
        Py_RETURN_NONE;
    cuts = cuts_of(raw, &cut);
    if (cuts == NULL)
        return NULL;
    return Py_BuildValue("(inLNO)", status, line_end, length, cuts, has_date ? Py_True : Py_False);
}

static PyMethodDef METHODS[] = {
    {"plain_request", (PyCFunction)(void (*)(void))plain_request, METH_FASTCALL, "See balancer/http1/plain_heads.py."},
    {"plain_response", plain_response, METH_O, "See balancer/http1/plain_heads.py."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "balancer.http1._plain_heads",
    .m_doc = "Plain heads, read in one pass.",
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__plain_heads(void)
{
    return PyModuleDef_Init(&MODULE);
}
